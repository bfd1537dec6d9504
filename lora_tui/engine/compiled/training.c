/* What a Llama does between its matrix products when it is trained: each formula in one pass over the activations.

   engine/training/fast/compiled_ops.py calls this; the formulas are those of cpu_ops.py. Everything is float32 inside
   and rounded once. A row's values depend on that row alone, so they are the same on any number of threads. Sizes are
   multiples of 16; `kind` is the precision of a tensor. */

#include "threads.h"

typedef struct {
    const void *x, *weight, *grad; /* (rows, width), (width), (rows, width) */
    void *y;                       /* the result */
    float *factors;                /* (rows): by which each row is scaled */
    int64_t rows, width, x_kind, weight_kind, grad_kind;
    float eps;
} Norm;

INLINE int64_t first_row(int64_t rows, int thread, int threads) { return rows * thread / threads; }

INLINE void norm_rows(const Norm *norm, int64_t first, int64_t end, int x_kind, int weight_kind) {
    const size_t width = norm->width;
    for (int64_t row = first; row < end; row++) {
        const size_t at = row * width;
        Vector squares = {0};
        for (size_t i = 0; i < width; i += LANES) {
            const Vector x = load_kind(norm->x, at + i, x_kind);
            squares += x * x;
        }
        const float factor = 1.0f / sqrtf(sum_of(squares) / width + norm->eps);
        norm->factors[row] = factor;
        for (size_t i = 0; i < width; i += LANES) {
            const Vector y = load_kind(norm->x, at + i, x_kind) * factor * load_kind(norm->weight, i, weight_kind);
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
            store_kind(norm->y, at + i, grad * factor + load_kind(norm->x, at + i, x_kind) * along, x_kind);
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

/* y = x · factor · weight, with factor = 1 / sqrt(mean(x²) + eps), and the factors. */
void rms_norm(Norm *norm, int threads) { run_on(threads, norm_forward, norm); }

/* y = the gradient of x. */
void rms_norm_gradient(Norm *norm, int threads) { run_on(threads, norm_backward, norm); }

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

typedef struct {
    const void *x;
    void *y;
    const float *cosines, *sines; /* (tokens, width / 2), or NULL: nothing is turned */
    int64_t tokens, groups, group, width, x_kind, y_kind;
    int64_t to_heads; /* from (tokens, groups · group · width) to (groups, tokens, group, width), or back */
} Heads;

INLINE void move_heads(const Heads *heads, int64_t first, int64_t end, int x_kind, int y_kind) {
    const size_t width = heads->width, half = width / 2;
    for (int64_t g = 0; g < heads->groups; g++)
        for (int64_t token = first; token < end; token++)
            for (int64_t h = 0; h < heads->group; h++) {
                const size_t by_token = ((token * heads->groups + g) * heads->group + h) * width;
                const size_t by_head = ((g * heads->tokens + token) * heads->group + h) * width;
                const size_t from = heads->to_heads ? by_token : by_head, to = heads->to_heads ? by_head : by_token;
                if (!heads->cosines) {
                    for (size_t i = 0; i < width; i += LANES)
                        store_kind(heads->y, to + i, load_kind(heads->x, from + i, x_kind), y_kind);
                    continue;
                }
                for (size_t i = 0; i < half; i += LANES) {
                    const Vector cosine = load(heads->cosines + token * half + i);
                    const Vector sine = load(heads->sines + token * half + i);
                    const Vector a = load_kind(heads->x, from + i, x_kind);
                    const Vector b = load_kind(heads->x, from + half + i, x_kind);
                    store_kind(heads->y, to + i, a * cosine - b * sine, y_kind);
                    store_kind(heads->y, to + half + i, b * cosine + a * sine, y_kind);
                }
            }
}

static void heads_of_tokens(int thread, int threads, void *what) {
    const Heads *heads = what;
    const int64_t first = first_row(heads->tokens, thread, threads);
    const int64_t end = first_row(heads->tokens, thread + 1, threads);
    if (heads->x_kind == FLOAT32 && heads->y_kind == FLOAT32) move_heads(heads, first, end, FLOAT32, FLOAT32);
    else if (heads->x_kind == FLOAT32) move_heads(heads, first, end, FLOAT32, BFLOAT16);
    else if (heads->y_kind == FLOAT32) move_heads(heads, first, end, BFLOAT16, FLOAT32);
    else move_heads(heads, first, end, BFLOAT16, BFLOAT16);
}

/* Heads of tokens, in the other order and precision, each turned by its position's angles on the way. */
void turn_heads(Heads *heads, int threads) { run_on(threads, heads_of_tokens, heads); }
