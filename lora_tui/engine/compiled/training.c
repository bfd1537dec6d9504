/* What a Llama does between its matrix products when it is trained: each formula in one pass over the activations.

   engine/training/fast/compiled_ops.py calls this; the formulas are those of cpu_ops.py. Everything is float32 inside
   and rounded once. A row's values depend on that row alone, so they are the same on any number of threads. Sizes are
   multiples of 16; `kind` is the precision of a tensor. */

#include "span_attention.h"

typedef struct {
    const void *x, *weight, *grad; /* (rows, width), (width), (rows, width) */
    void *y;                       /* the result */
    float *factors;                /* (rows): by which each row is scaled */
    const void *added;             /* what is added to a float32 x before, as precise as the weight, or NULL */
    float *total;                  /* their sum, which is normed */
    const float *passed;           /* a gradient that is added to that of a float32 x, or NULL */
    void *rounded;                 /* the result once more as bfloat16, or NULL */
    int64_t rows, width, x_kind, weight_kind, grad_kind;
    float eps;
} Norm;

INLINE int64_t first_row(int64_t rows, int thread, int threads) { return rows * thread / threads; }

INLINE void norm_rows(const Norm *norm, int64_t first, int64_t end, int x_kind, int weight_kind) {
    const size_t width = norm->width;
    for (int64_t row = first; row < end; row++) {
        const size_t at = row * width;
        const void *given = norm->added ? norm->total : norm->x;
        Vector squares = {0};
        for (size_t i = 0; i < width; i += LANES) {
            Vector x = load_kind(norm->x, at + i, x_kind);
            if (norm->added) store(norm->total + at + i, x += load_kind(norm->added, at + i, weight_kind));
            squares += x * x;
        }
        const float factor = 1.0f / sqrtf(sum_of(squares) / width + norm->eps);
        norm->factors[row] = factor;
        for (size_t i = 0; i < width; i += LANES) {
            const Vector y = load_kind(given, at + i, x_kind) * factor * load_kind(norm->weight, i, weight_kind);
            store_kind(norm->y, at + i, y, weight_kind);
        }
    }
}

INLINE void norm_gradients(const Norm *norm, int64_t first, int64_t end, int x_kind, int weight_kind, int grad_kind) {
    const size_t width = norm->width;
    for (int64_t row = first; row < end; row++) {
        const size_t at = row * width;
        const float factor = norm->factors[row];
        Vector products = {0};
        for (size_t i = 0; i < width; i += LANES)
            products += load_kind(norm->grad, at + i, grad_kind) * load_kind(norm->weight, i, weight_kind)
                      * load_kind(norm->x, at + i, x_kind);
        const float along = sum_of(products) * factor * factor * factor / -(float)width;
        for (size_t i = 0; i < width; i += LANES) {
            const Vector grad = load_kind(norm->grad, at + i, grad_kind) * load_kind(norm->weight, i, weight_kind);
            Vector y = grad * factor + load_kind(norm->x, at + i, x_kind) * along;
            if (norm->passed) y += load(norm->passed + at + i);
            store_kind(norm->y, at + i, y, x_kind);
            if (norm->rounded) store_kind(norm->rounded, at + i, y, BFLOAT16);
        }
    }
}

static void norm_forward(int thread, int threads, void *what) {
    const Norm *norm = what;
    const int64_t first = first_row(norm->rows, thread, threads), end = first_row(norm->rows, thread + 1, threads);
    if (norm->x_kind == FLOAT32 && norm->weight_kind == FLOAT32) norm_rows(norm, first, end, FLOAT32, FLOAT32);
    else if (norm->x_kind == FLOAT32) norm_rows(norm, first, end, FLOAT32, BFLOAT16);
    else if (norm->weight_kind == FLOAT32) norm_rows(norm, first, end, BFLOAT16, FLOAT32);
    else norm_rows(norm, first, end, BFLOAT16, BFLOAT16);
}

static void norm_backward(int thread, int threads, void *what) {
    const Norm *norm = what;
    const int64_t first = first_row(norm->rows, thread, threads), end = first_row(norm->rows, thread + 1, threads);
    const int x = (int)norm->x_kind, weight = (int)norm->weight_kind, grad = (int)norm->grad_kind;
    if (x == FLOAT32 && weight == FLOAT32 && grad == FLOAT32)
        norm_gradients(norm, first, end, FLOAT32, FLOAT32, FLOAT32);
    else if (x == FLOAT32 && weight == BFLOAT16 && grad == BFLOAT16)
        norm_gradients(norm, first, end, FLOAT32, BFLOAT16, BFLOAT16);
    else if (x == BFLOAT16 && weight == BFLOAT16 && grad == BFLOAT16)
        norm_gradients(norm, first, end, BFLOAT16, BFLOAT16, BFLOAT16);
    else
        norm_gradients(norm, first, end, x, weight, grad);
}

/* y = x · factor · weight, with factor = 1 / sqrt(mean(x²) + eps), and the factors; x is total where some is added. */
void rms_norm(Norm *norm, int threads) { run_on(threads, norm_forward, norm); }

/* y = the gradient of x, and what is passed by. */
void rms_norm_gradient(Norm *norm, int threads) { run_on(threads, norm_backward, norm); }

typedef struct {
    const float *x;
    const void *added;
    float *y;
    int64_t size, kind; /* of what is added */
} Addition;

static void add_part(int thread, int threads, void *what) {
    const Addition *sum = what;
    const size_t first = share(sum->size, thread, threads), end = share(sum->size, thread + 1, threads);
    if (sum->kind == BFLOAT16)
        for (size_t i = first; i < end; i += LANES) store(sum->y + i, load(sum->x + i) + load_kind(sum->added, i, BFLOAT16));
    else
        for (size_t i = first; i < end; i += LANES) store(sum->y + i, load(sum->x + i) + load_kind(sum->added, i, FLOAT32));
}

/* y = x + what is added. */
void add(Addition *sum, int threads) { run_on(threads, add_part, sum); }

typedef struct {
    const void *gate, *up, *grad; /* of one precision and size */
    void *y, *grad_gate, *grad_up;
    int64_t size, kind;
} Gate;

INLINE void gate_values(const Gate *gate, size_t first, size_t end, int kind) {
    for (size_t i = first; i < end; i += LANES) {
        const Vector x = load_kind(gate->gate, i, kind);
        store_kind(gate->y, i, x / (1.0f + exponential(-x)) * load_kind(gate->up, i, kind), kind);
    }
}

INLINE void gate_gradients(const Gate *gate, size_t first, size_t end, int kind) {
    for (size_t i = first; i < end; i += LANES) {
        const Vector x = load_kind(gate->gate, i, kind), grad = load_kind(gate->grad, i, kind);
        const Vector share = 1.0f / (1.0f + exponential(-x));
        const Vector slope = share * (1.0f + x * (1.0f - share));
        store_kind(gate->grad_gate, i, grad * load_kind(gate->up, i, kind) * slope, kind);
        store_kind(gate->grad_up, i, grad * x * share, kind);
    }
}

static void gate_forward(int thread, int threads, void *what) {
    const Gate *gate = what;
    const size_t first = share(gate->size, thread, threads), end = share(gate->size, thread + 1, threads);
    if (gate->kind == BFLOAT16) gate_values(gate, first, end, BFLOAT16);
    else gate_values(gate, first, end, FLOAT32);
}

static void gate_backward(int thread, int threads, void *what) {
    const Gate *gate = what;
    const size_t first = share(gate->size, thread, threads), end = share(gate->size, thread + 1, threads);
    if (gate->kind == BFLOAT16) gate_gradients(gate, first, end, BFLOAT16);
    else gate_gradients(gate, first, end, FLOAT32);
}

/* y = silu(gate) · up. */
void swiglu(Gate *gate, int threads) { run_on(threads, gate_forward, gate); }

/* The gradients of gate and up. */
void swiglu_gradient(Gate *gate, int threads) { run_on(threads, gate_backward, gate); }

#define SUMMED 1024 /* numbers that are summed before they are added to the others */

typedef struct {
    void *logits; /* (rows, size); the gradient of each row's loss takes their place */
    const int64_t *targets;
    float *losses; /* (rows) */
    int64_t rows, size, kind;
} Surprise;

INLINE void surprise_of_rows(const Surprise *all_rows, int64_t first, int64_t end, int kind) {
    const size_t size = all_rows->size;
    for (int64_t row = first; row < end; row++) {
        const size_t at = row * size, target = all_rows->targets[row];
        Vector most = all(-INFINITY), sums = {0};
        for (size_t i = 0; i < size; i += LANES) {
            const Vector x = load_kind(all_rows->logits, at + i, kind);
            most = chosen(x > most, x, most);
        }
        const float highest = largest(most);
        for (size_t i = 0; i < size;) { /* sums of sums: of 50,000 numbers one after the other the last digits are lost */
            const size_t end = size - i < SUMMED ? size : i + SUMMED;
            Vector part = {0};
            for (; i < end; i += LANES) part += exponential(load_kind(all_rows->logits, at + i, kind) - highest);
            sums += part;
        }
        const float sum = sum_of(sums), scale = 1.0f / sum;
        const float own = target < size ? load_one(all_rows->logits, at + target, kind) : NAN;
        all_rows->losses[row] = highest - own + logf(sum);
        for (size_t i = 0; i < size; i += LANES) {
            const Vector x = load_kind(all_rows->logits, at + i, kind);
            Vector share = exponential(x - highest) * scale;
            if (target - i < LANES) share[target - i] -= 1.0f;
            store_kind(all_rows->logits, at + i, share, kind);
        }
    }
}

static void surprise_of_part(int thread, int threads, void *what) {
    const Surprise *all_rows = what;
    const int64_t first = first_row(all_rows->rows, thread, threads);
    const int64_t end = first_row(all_rows->rows, thread + 1, threads);
    if (all_rows->kind == BFLOAT16) surprise_of_rows(all_rows, first, end, BFLOAT16);
    else surprise_of_rows(all_rows, first, end, FLOAT32);
}

/* The cross-entropy of each row's target, and softmax(logits) less 1 at the target. NaN for a target that is none. */
void cross_entropy(Surprise *all_rows, int threads) { run_on(threads, surprise_of_part, all_rows); }

/* ---- LoRA beside a frozen product ---- */

#define MOST_INPUTS 3 /* low-rank products whose gradients reach one input */
#define TOKENS 4          /* tokens whose products are computed at once */
#define SUMMED_TOKENS 16  /* tokens whose sums are added at once */

typedef struct { /* activations (tokens, size) of a precision; of them LoRA does not see the flat positions `dropped` */
    const void *values;
    const int64_t *dropped; /* ascending */
    int64_t drops, size, kind;
} Seen;

typedef struct {
    Seen x;
    const float *matrix;    /* (ranks, size of x) */
    float *low;             /* (tokens, ranks), the lines `stride` apart */
    float *sums;            /* (ranks, size of x) */
    const float *low_other; /* (tokens, ranks), the lines `other_stride` apart, in the place of `low` for sums */
    int64_t tokens, ranks, stride, other_stride;
    float scale;
} Down;

/* The first position that is dropped from here on. */
INLINE int64_t next_drop(const Seen *x, int64_t flat) {
    int64_t from = 0, to = x->drops;
    while (from < to) {
        const int64_t middle = (from + to) / 2;
        if (x->dropped[middle] < flat) from = middle + 1;
        else to = middle;
    }
    return from;
}

/* Columns `first` to `end` of a token's activations as float32, zeros where they are dropped. */
INLINE void see(const Seen *x, int64_t token, int64_t *drop, size_t first, size_t end, float *row, int kind) {
    const size_t at = token * x->size;
    for (size_t i = first; i < end; i += LANES) store(row + i, load_kind(x->values, at + i, kind));
    for (; *drop < x->drops && x->dropped[*drop] < (int64_t)(at + x->size); ++*drop) {
        const size_t i = x->dropped[*drop] - at;
        if (i >= first && i < end) row[i] = 0.0f;
    }
}

/* Columns `first` to `end` of a few tokens from `token` on, with zeros for those after the last; how many there are. */
INLINE int64_t see_some(const Seen *x, int64_t token, int64_t to, int64_t *drop, size_t first, size_t end, float *rows,
                        int kind) {
    const int64_t count = to - token < TOKENS ? to - token : TOKENS;
    for (int64_t t = 0; t < count; t++) see(x, token + t, drop, first, end, rows + t * x->size, kind);
    for (int64_t t = count; t < TOKENS; t++) memset(rows + t * x->size + first, 0, (end - first) * sizeof(float));
    return count;
}

static void down_of_kind(const Down *down, int64_t from, int64_t to, int kind) {
    const size_t size = down->x.size;
    float rows[TOKENS * size];
    int64_t drop = next_drop(&down->x, from * (int64_t)size);
    for (int64_t token = from; token < to; token += TOKENS) {
        const int64_t count = see_some(&down->x, token, to, &drop, 0, size, rows, kind);
        for (int64_t k = 0; k < down->ranks; k += 4) {
            const int64_t left = down->ranks - k;
            Vector sums[TOKENS][4] = {0};
            const float *matrix[4];
            for (int64_t j = 0; j < 4; j++) matrix[j] = down->matrix + (k + (j < left ? j : 0)) * size;
            for (size_t i = 0; i < size; i += LANES) {
                Vector own[4];
                UNROLL for (int j = 0; j < 4; j++) own[j] = load(matrix[j] + i);
                UNROLL for (int t = 0; t < TOKENS; t++) {
                    const Vector x = load(rows + t * size + i);
                    UNROLL for (int j = 0; j < 4; j++) sums[t][j] += x * own[j];
                }
            }
            UNROLL for (int t = 0; t < TOKENS; t++) {
                float four[4];
                sums_of_four(sums[t][0], sums[t][1], sums[t][2], sums[t][3], four);
                for (int64_t j = 0; t < count && j < 4 && j < left; j++)
                    down->low[(token + t) * down->stride + k + j] = four[j] * down->scale;
            }
        }
    }
}

/* Add `low` (tokens, ranks), transposed, times the activations, for columns `first` to `end`. */
static void sums_of_kind(const Down *down, size_t first, size_t end, int kind) {
    const size_t size = down->x.size, columns = end - first, ranks = down->ranks, lines = up_to(ranks, TILE);
    float rows[SUMMED_TOKENS * size], low[SUMMED_TOKENS * lines], spare[TILE * size];
    int64_t drop = 0;
    for (size_t k = 0; k < ranks; k++) memset(down->sums + k * size + first, 0, columns * sizeof(float));
    memset(low, 0, sizeof low);
    for (int64_t token = 0; token < down->tokens; token += SUMMED_TOKENS) {
        const int64_t count = down->tokens - token < SUMMED_TOKENS ? down->tokens - token : SUMMED_TOKENS;
        for (int64_t t = 0; t < count; t++) {
            see(&down->x, token + t, &drop, first, end, rows + t * size, kind);
            memcpy(low + t * lines, down->low_other + (token + t) * down->other_stride, ranks * sizeof(float));
        }
        for (size_t k = 0; k < ranks; k += TILE) { /* of ranks that are none the sums go elsewhere */
            const int whole = k + TILE <= ranks;
            float *sums = whole ? down->sums + k * size + first : spare;
            for (size_t r = 0; !whole && k + r < ranks; r++)
                memcpy(spare + r * size, down->sums + (k + r) * size + first, columns * sizeof(float));
            add_transposed(low + k, lines, rows + first, size, sums, size, count, columns);
            for (size_t r = 0; !whole && k + r < ranks; r++)
                memcpy(down->sums + (k + r) * size + first, spare + r * size, columns * sizeof(float));
        }
    }
}

static void down_of_tokens(int thread, int threads, void *what) {
    const Down *down = what;
    const int64_t from = first_row(down->tokens, thread, threads), to = first_row(down->tokens, thread + 1, threads);
    if (down->x.kind == BFLOAT16) down_of_kind(down, from, to, BFLOAT16);
    else down_of_kind(down, from, to, FLOAT32);
}

static void sums_of_columns(int thread, int threads, void *what) {
    const Down *down = what;
    const size_t first = share(down->x.size, thread, threads), end = share(down->x.size, thread + 1, threads);
    if (down->x.kind == BFLOAT16) sums_of_kind(down, first, end, BFLOAT16);
    else sums_of_kind(down, first, end, FLOAT32);
}

/* low = scale · seen(x) · matrixᵀ */
void low_rank_down(Down *down, int threads) { run_on(threads, down_of_tokens, down); }

/* sums = low_otherᵀ · seen(x) */
void low_rank_sums(Down *down, int threads) { run_on(threads, sums_of_columns, down); }

typedef struct {
    const float *low[MOST_INPUTS], *matrix[MOST_INPUTS]; /* (tokens, ranks), (ranks, size) */
    Seen seen[MOST_INPUTS];                              /* what of the result is dropped; without values */
    int64_t ranks[MOST_INPUTS], stride[MOST_INPUTS];
    const void *bias; /* (size) or NULL */
    void *y;          /* (tokens, size) */
    int64_t products, tokens, size, kind;
} Up;

static void up_of_kind(const Up *up, int64_t from, int64_t to, int kind) {
    const size_t size = up->size;
    float totals[TILE * size], rows[TILE * size];
    int64_t drop[MOST_INPUTS];
    for (int64_t p = 0; p < up->products; p++) drop[p] = next_drop(&up->seen[p], from * (int64_t)size);
    for (int64_t token = from; token < to; token += TILE) {
        const int64_t count = to - token < TILE ? to - token : TILE;
        for (size_t i = 0; i < TILE * size; i += LANES)
            store(totals + i, up->bias ? load_kind(up->bias, i % size, kind) : (Vector){0});
        for (int64_t p = 0; p < up->products; p++) {
            const Seen *seen = &up->seen[p];
            const size_t ranks = up->ranks[p];
            float low[TILE * ranks]; /* those after the last token are zeros */
            memset(low, 0, sizeof low);
            for (int64_t t = 0; t < count; t++)
                memcpy(low + t * ranks, up->low[p] + (token + t) * up->stride[p], ranks * sizeof(float));
            product(low, ranks, up->matrix[p], size, rows, size, ranks, size);
            for (int64_t t = 0; t < count; t++)
                for (const int64_t end = (token + t + 1) * (int64_t)size;
                     drop[p] < seen->drops && seen->dropped[drop[p]] < end; drop[p]++)
                    rows[seen->dropped[drop[p]] - token * (int64_t)size] = 0.0f;
            for (size_t i = 0; i < TILE * size; i += LANES) store(totals + i, load(totals + i) + load(rows + i));
        }
        for (size_t i = 0; i < count * size; i += LANES) store_kind(up->y, token * size + i, load(totals + i), kind);
    }
}

static void up_of_tokens(int thread, int threads, void *what) {
    const Up *up = what;
    const int64_t from = first_row(up->tokens, thread, threads), to = first_row(up->tokens, thread + 1, threads);
    if (up->kind == BFLOAT16) up_of_kind(up, from, to, BFLOAT16);
    else up_of_kind(up, from, to, FLOAT32);
}

/* y = bias + the sum of low · matrix, of each product without what is dropped. */
void low_rank_up(Up *up, int threads) { run_on(threads, up_of_tokens, up); }
