/* Decoding steps of a Llama-like model on a CPU: tokens through all layers in one call.

   A step of a few tokens reads every weight once, and reading them is what takes its time. Each layer is six phases
   with a barrier after each; a thread computes a part of the outputs of every product, and reads the weights where the
   model has them. What a token gives does not depend on the tokens beside it: each sum has one order. Values are
   float32 in between, rounded to the model's precision where transformers rounds them. Where there are matrix
   instructions (tiles.h), they compute the products of bfloat16 whatever the number of tokens, so prompts come here
   too.

   engine/inference/compiled_step.py declares the same structures and calls this. AHEAD was measured on two cores of a
   Xeon with AVX-512. */

#include <stdlib.h>

#include "threads.h"
#include "tiles.h"

#ifdef __AVX512F__ /* 32 registers of 16 numbers; elsewhere 16 of 8, or fewer */
#define TILE_ROWS 8
#define TILED(rows) ((rows) > 4 ? 2 : 4)
#define MOST_ROWS 16
#else
#define TILE_ROWS 4
#define TILED(rows) ((rows) > 2 ? 1 : 2)
#define MOST_ROWS 5
#endif
#define TILE_OUTPUTS 4
#define MOST_PARTS 3
#define MOST_WIDTH 256
#define FEW_ROWS 16  /* up to so many rows each thread lays out for itself what a product reads: a barrier costs more */
#define CHUNK 256    /* rows that go through all layers together: they stay in the cache of a core */
#define AHEAD 16384 /* bytes ahead of which weights are asked for: 10.5 ms a token, 15.9 without (SmolLM2-135M) */

/* ---- What compiled_step.py declares too ---- */

typedef struct {
    const void *weight, *bias; /* (outputs, inputs), (outputs) in the model's precision or NULL */
    const float *scales;       /* (outputs), of 8-bit weights */
    int64_t outputs;
} Part;

typedef struct { /* layers that share their input; the outputs of each follow those of the one before */
    Part part[MOST_PARTS];
    int64_t parts, inputs, outputs, kind;
} Product;

typedef struct {
    const void *attention_norm, *feed_forward_norm, *query_norm, *key_norm; /* the latter two may be NULL */
    Product query_key_value, output, gate_up, down;
} Layer;

typedef struct {
    int64_t kind, layers, hidden, heads, key_heads, width, inner;
    float eps, head_eps, scaling, last_eps;
    const Layer *layer;
    const void *norm;
    Product head;
} Model;

typedef struct { /* LoRA beside a product: (inputs, ranks) and (ranks, outputs), scaled; no ranks: nothing */
    const float *down, *up;
    int64_t ranks;
} LowRank;

typedef struct {
    int64_t rows;
    const float *cosines, *sines;       /* (rows, width); the first half of the sines is negative */
    const int64_t *places, *lengths;    /* where each row's sequence is in the cache, and the tokens before this one */
    void *const *keys, *const *values;  /* by layer: (places, key heads, capacity, width) */
    int64_t capacity;
    void *const *prefix_keys, *const *prefix_values; /* what all sequences begin with: (1, key heads, …, width) */
    int64_t prefix_capacity, prefix_tokens;
    const LowRank *adapters;    /* (adapters, layers, 4) */
    const int64_t *row_adapter; /* a row's adapter, or -1 */
} Step;

/* ---- Products ---- */

INLINE size_t size_of(int kind) { return kind == FLOAT32 ? 4 : kind == BFLOAT16 ? 2 : 1; }
INLINE int ways(int kind) { return kind == INT8 ? 4 : 2; }

/* 32 or 64 weights as 2 or 4 vectors. Those of fewer bits are not in order: every second or fourth weight makes a
   vector, which costs a shift; `split` lays what they are multiplied with out likewise. */
INLINE void load_weights(const char *from, int kind, Vector *found) {
    if (kind == FLOAT32) {
        found[0] = load((const float *)from), found[1] = load((const float *)from + LANES);
        return;
    }
    const Bits bits = *(const StoredBits *)from;
    if (kind == BFLOAT16) {
        found[0] = (Vector)(bits << 16), found[1] = (Vector)(bits & 0xffff0000u);
        return;
    }
    UNROLL for (int way = 0; way < 4; way++)
        found[way] = __builtin_convertvector((Whole)(bits << (24 - 8 * way)) >> 24, Vector);
}

static const float *split(const float *x, size_t values, float *room, int kind) {
    if (kind == FLOAT32) return x;
    if (kind == BFLOAT16)
        for (size_t i = 0; i < values; i += 2 * LANES) {
            Vector even, odd;
            split_two(x + i, &even, &odd);
            store(room + i, even), store(room + i + LANES, odd);
        }
    else
        for (size_t i = 0; i < values; i += 4 * LANES) {
            float halves[4 * LANES];
            Vector found[4];
            for (int half = 0; half < 2; half++) {
                split_two(x + i + 2 * half * LANES, &found[0], &found[1]);
                store(halves + half * LANES, found[0]), store(halves + (2 + half) * LANES, found[1]);
            }
            split_two(halves, &found[0], &found[2]);
            split_two(halves + 2 * LANES, &found[1], &found[3]);
            for (int way = 0; way < 4; way++) store(room + i + way * LANES, found[way]);
        }
    return room;
}

/* A few outputs of a few rows at a time, so that what is loaded is used several times. `x` is split. */
INLINE void tile(const char *weight, size_t inputs, const float *x, int outputs, int rows, int kind, float *y,
                 size_t stride) {
    const size_t size = size_of(kind), line = inputs * size;
    Vector sums[TILE_OUTPUTS][TILE_ROWS];
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < rows; r++) sums[o][r] = (Vector){0};
    for (size_t i = 0; i < inputs; i += ways(kind) * LANES) {
        Vector w[TILE_OUTPUTS][4];
        UNROLL for (int o = 0; o < outputs; o++) {
            const char *from = weight + o * line + i * size;
            __builtin_prefetch(from + AHEAD, 0, 2);
            if (kind == FLOAT32) __builtin_prefetch(from + AHEAD + 64, 0, 2);
            load_weights(from, kind, w[o]);
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int way = 0; way < ways(kind); way++) {
                const Vector value = load(x + r * inputs + i + way * LANES);
                UNROLL for (int o = 0; o < outputs; o++) sums[o][r] += w[o][way] * value;
            }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        float found[TILE_OUTPUTS];
        const int last = outputs - 1;
        sums_of_four(sums[0][r], sums[last < 1 ? last : 1][r], sums[last < 2 ? last : 2][r], sums[last][r], found);
        for (int o = 0; o < outputs; o++) y[r * stride + o] = found[o == last ? 3 : o];
    }
}

INLINE void tiles(const char *weight, size_t inputs, size_t first, size_t end, const float *x, int rows, int kind,
                  float *y, size_t stride) {
    const size_t line = inputs * size_of(kind);
    size_t o = first;
    for (; o + TILED(rows) <= end; o += TILED(rows))
        tile(weight + o * line, inputs, x, TILED(rows), rows, kind, y + o, stride);
    for (; o < end; o++)
        for (int r = 0; r < rows; r++)
            tile(weight + o * line, inputs, x + r * inputs, 1, 1, kind, y + r * stride + o, stride);
}

#define MATRIX(name, kind)                                                                                             \
    static void name(const char *weight, size_t inputs, size_t first, size_t end, const float *x, int64_t rows,        \
                     float *y, size_t stride) {                                                                        \
        for (; rows > 0; rows -= TILE_ROWS, x += TILE_ROWS * inputs, y += TILE_ROWS * stride)                          \
            switch (rows < TILE_ROWS ? rows : TILE_ROWS) {                                                             \
            case 1: tiles(weight, inputs, first, end, x, 1, kind, y, stride); break;                                   \
            case 2: tiles(weight, inputs, first, end, x, 2, kind, y, stride); break;                                   \
            case 3: tiles(weight, inputs, first, end, x, 3, kind, y, stride); break;                                   \
            case 4: tiles(weight, inputs, first, end, x, 4, kind, y, stride); break;                                   \
            case 5: tiles(weight, inputs, first, end, x, 5, kind, y, stride); break;                                   \
            case 6: tiles(weight, inputs, first, end, x, 6, kind, y, stride); break;                                   \
            case 7: tiles(weight, inputs, first, end, x, 7, kind, y, stride); break;                                   \
            default: tiles(weight, inputs, first, end, x, 8, kind, y, stride);                                         \
            }                                                                                                          \
    }
MATRIX(matrix_float32, FLOAT32)
MATRIX(matrix_bfloat16, BFLOAT16)
MATRIX(matrix_int8, INT8)

typedef struct { /* what all threads of a call share */
    const Model *model;
    const Step *step;
    float *x, *parts, *attended, *activated, *scores; /* (rows, …) */
    int tiled; /* whether matrix instructions compute scores */
    int alone; /* whether each thread prepares all rows for itself */
    size_t stride; /* scores of a query */
    Barrier barrier;
} Call;

/* A thread's own: rows after a norm, and as a product reads them, are everybody's where they are many. */
typedef struct { float *normed, *laid, *low, *scores; } Own;

typedef struct { const float *plain, *laid; } Rows; /* as they are, and as a product reads them */

/* Whether matrix instructions compute a product. It does not depend on the rows: a row always gives the same. */
static int is_tiled(const Product *product, int kind) {
    if (kind != BFLOAT16 || product->kind != BFLOAT16 || product->inputs % (2 * TILE) || !have_tiles()) return 0;
    for (int64_t p = 0; p < product->parts; p++)
        if (product->part[p].outputs % TILE) return 0;
    return 1;
}

static const float *lay_out(const float *x, int64_t first, int64_t end, const Product *product, float *room, int kind) {
    const size_t inputs = product->inputs;
    if (!is_tiled(product, kind)) {
        if (product->kind == FLOAT32) return x;
        split(x + first * inputs, (end - first) * inputs, room + first * inputs, (int)product->kind);
        return room;
    }
    for (int64_t r = first; r < end; r += TILE)
        pack_rows(x + r * inputs, end - r < TILE ? end - r : TILE, inputs, room + r * inputs / 2);
    return room;
}

/* Outputs `first` to `end` of one layer for rows that are laid out, to y (rows, stride), scaled, biased and rounded. */
INLINE void outputs_of(const Part *part, int weights, int tiled, size_t inputs, size_t first, size_t end, const float *x,
                       int64_t rows, float *y, size_t stride, int kind) {
    if (tiled) tiled_outputs(part->weight, inputs, first, end, x, rows, y, stride);
    else if (weights == FLOAT32) matrix_float32(part->weight, inputs, first, end, x, rows, y, stride);
    else if (weights == BFLOAT16) matrix_bfloat16(part->weight, inputs, first, end, x, rows, y, stride);
    else matrix_int8(part->weight, inputs, first, end, x, rows, y, stride);
    if (kind == FLOAT32 && weights != INT8 && !part->bias) return;
    for (int64_t r = 0; r < rows; r++) {
        float *own = y + r * stride;
        size_t o = first;
        for (; o + LANES <= end; o += LANES) {
            Vector value = load(own + o);
            if (weights == INT8) value *= load(part->scales + o);
            if (part->bias) value += load_kind(part->bias, o, kind);
            store(own + o, rounded(value, kind));
        }
        for (; o < end; o++) {
            const float scaled = weights == INT8 ? own[o] * part->scales[o] : own[o];
            own[o] = rounded_one(part->bias ? scaled + load_one(part->bias, o, kind) : scaled, kind);
        }
    }
}

/* Add what a row's adapter gives for outputs `first` to `end` of a product. */
static void add_low_rank(const LowRank *own, const float *x, size_t inputs, size_t outputs, size_t first, size_t end,
                         float *y, float *low, int kind) {
    const size_t ranks = own->ranks;
    memset(low, 0, ranks * sizeof *low);
    for (size_t i = 0; i < inputs; i++) {
        const float value = x[i], *down = own->down + i * ranks;
        for (size_t k = 0; k < ranks; k++) low[k] += value * down[k];
    }
    for (size_t from = first; from < end; from += 256) {
        const size_t count = end - from < 256 ? end - from : 256;
        float added[256] = {0};
        for (size_t k = 0; k < ranks; k++) {
            const float value = low[k], *up = own->up + k * outputs + from;
            for (size_t o = 0; o < count; o++) added[o] += value * up[o];
        }
        for (size_t o = 0; o < count; o++) y[from + o] = rounded_one(y[from + o] + added[o], kind);
    }
}

/* Outputs `first` to `end` of a product of all rows, to y (rows, outputs); `number` is its place in its layer. */
static void multiply(const Call *call, const Product *product, size_t layer, int number, Rows x, size_t first,
                     size_t end, float *y, Own *own, int kind) {
    const Step *step = call->step;
    const int tiled = is_tiled(product, kind);
    size_t before = 0;
    for (int64_t p = 0; p < product->parts; p++) {
        const size_t size = product->part[p].outputs, after = before + size;
        const size_t from = first > before ? first - before : 0;
        const size_t to = end > after ? size : end > before ? end - before : 0;
        if (from < to)
            outputs_of(&product->part[p], (int)product->kind, tiled, product->inputs, from, to, x.laid, step->rows,
                       y + before, product->outputs, kind);
        before = after;
    }
    for (int64_t r = 0; step->adapters && r < step->rows; r++) {
        if (step->row_adapter[r] < 0) continue;
        const LowRank *found = &step->adapters[(step->row_adapter[r] * call->model->layers + layer) * 4 + number];
        if (found->ranks > 0)
            add_low_rank(found, x.plain + r * product->inputs, product->inputs, product->outputs, first, end,
                         y + r * product->outputs, own->low, kind);
    }
}

/* Rows from which on torch's products are as fast. */
int64_t most_rows(const Model *model) {
    for (int64_t number = 0; number < model->layers; number++) {
        const Layer *layer = &model->layer[number];
        if (!is_tiled(&layer->query_key_value, model->kind) || !is_tiled(&layer->output, model->kind) ||
            !is_tiled(&layer->gate_up, model->kind) || !is_tiled(&layer->down, model->kind))
            return MOST_ROWS;
    }
    return INT64_MAX;
}

/* ---- Layers ---- */

INLINE void norm(const float *x, const void *weight, size_t size, float eps, float *y, int kind) {
    Vector squares = {0};
    for (size_t i = 0; i < size; i += LANES) squares += load(x + i) * load(x + i);
    const Vector factor = all(1.0f / sqrtf(sum_of(squares) / size + eps));
    for (size_t i = 0; i < size; i += LANES)
        store(y + i, rounded(rounded(load(x + i) * factor, kind) * load_kind(weight, i, kind), kind));
}

/* A head's query or key, after its norm if there is one, turned by its position; `plain` has room for it. */
INLINE void turn(const Model *model, const Step *step, int64_t row, const float *x, const void *weight, float *plain,
                 float *y, int kind) {
    const size_t width = model->width, half = width / 2;
    const float *cosines = step->cosines + row * width, *sines = step->sines + row * width;
    if (weight) norm(x, weight, width, model->head_eps, plain, kind), x = plain;
    for (size_t i = 0; half % LANES == 0 && i < width; i += LANES) {
        const Vector turned = rounded(load(x + (i < half ? i + half : i - half)) * load(sines + i), kind);
        store(y + i, rounded(rounded(load(x + i) * load(cosines + i), kind) + turned, kind));
    }
    for (size_t i = 0; half % LANES && i < width; i++) {
        const float turned = rounded_one(x[i < half ? i + half : i - half] * sines[i], kind);
        y[i] = rounded_one(rounded_one(x[i] * cosines[i], kind) + turned, kind);
    }
}

/* Keep the key and value of one head of one row in the cache. */
INLINE void keep(const Call *call, size_t number, int64_t row, int64_t key_head, int kind) {
    const Model *model = call->model;
    const Step *step = call->step;
    const size_t width = model->width;
    const float *parts = call->parts + row * (model->heads + 2 * model->key_heads) * width;
    const float *value = parts + (model->heads + model->key_heads + key_head) * width;
    const size_t head = step->places[row] * model->key_heads + key_head;
    const size_t at = (head * step->capacity + step->lengths[row]) * width;
    float plain[MOST_WIDTH], key[MOST_WIDTH];
    turn(model, step, row, parts + (model->heads + key_head) * width, model->layer[number].key_norm, plain, key, kind);
    for (size_t i = 0; i < width; i += LANES) {
        store_kind(step->keys[number], at + i, load(key + i), kind);
        store_kind(step->values[number], at + i, load(value + i), kind);
    }
}

INLINE void add_scores(const float *query, const void *keys, size_t at, size_t tokens, size_t width, float scaling,
                       float *scores, int kind) {
    for (size_t t = 0; t < tokens; t += 4) {
        const size_t left = tokens - t;
        Vector sums[4] = {{0}, {0}, {0}, {0}};
        for (size_t i = 0; i < width; i += LANES) {
            const Vector own = load(query + i);
            UNROLL for (size_t k = 0; k < 4; k++) { /* of fewer than four the last is computed again */
                const size_t token = t + (k < left ? k : left - 1);
                sums[k] += own * load_kind(keys, at + token * width + i, kind);
            }
        }
        float four[4];
        sums_of_four(sums[0], sums[1], sums[2], sums[3], four);
        for (size_t k = 0; k < 4 && k < left; k++) scores[t + k] = four[k] * scaling;
    }
}

/* Scores of some queries of one key head, (queries, width) and as `pack_rows` lays them out, to (queries, stride). */
INLINE void scores_of(const Call *call, const float *query, const float *packed, int64_t queries, const void *keys,
                      size_t at, size_t tokens, float *scores, size_t stride, int kind) {
    const size_t width = call->model->width;
    const float scaling = call->model->scaling;
    if (call->tiled) {
        for (size_t t = 0; t < tokens; t += TILE)
            tiled_scores((const uint16_t *)keys + at + t * width, tokens - t, width, packed, queries, scaling,
                         scores + t, stride);
        return;
    }
    for (int64_t q = 0; q < queries; q++)
        add_scores(query + q * width, keys, at, tokens, width, scaling, scores + q * stride, kind);
}

/* Add the values, weighted, of one key head to the sums (queries, width) of some queries. */
INLINE void add_values(const float *weights, size_t stride, int queries, const void *values, size_t at, size_t tokens,
                       size_t width, float *sums, int kind) {
    for (size_t from = 0; from < width; from += LANES) {
        Vector own[8];
        UNROLL for (int q = 0; q < queries; q++) own[q] = load(sums + q * width + from);
        for (size_t t = 0; t < tokens; t++) {
            const Vector value = load_kind(values, at + t * width + from, kind);
            UNROLL for (int q = 0; q < queries; q++) own[q] += all(weights[q * stride + t]) * value;
        }
        UNROLL for (int q = 0; q < queries; q++) store(sums + q * width + from, own[q]);
    }
}

INLINE void add_all_values(const float *weights, size_t stride, int64_t queries, const void *values, size_t at,
                           size_t tokens, size_t width, float *sums, int kind) {
    for (int64_t q = 0, count; q < queries; q += count) {
        const int64_t left = queries - q;
        const float *own = weights + q * stride;
        count = left < 8 ? left : 8;
        switch (count) {
        case 1: add_values(own, stride, 1, values, at, tokens, width, sums + q * width, kind); break;
        case 2: add_values(own, stride, 2, values, at, tokens, width, sums + q * width, kind); break;
        case 3: add_values(own, stride, 3, values, at, tokens, width, sums + q * width, kind); break;
        case 4: add_values(own, stride, 4, values, at, tokens, width, sums + q * width, kind); break;
        case 5: add_values(own, stride, 5, values, at, tokens, width, sums + q * width, kind); break;
        case 6: add_values(own, stride, 6, values, at, tokens, width, sums + q * width, kind); break;
        case 7: add_values(own, stride, 7, values, at, tokens, width, sums + q * width, kind); break;
        default: add_values(own, stride, 8, values, at, tokens, width, sums + q * width, kind);
        }
    }
}

/* Attention of `heads` heads, which share a key head, of `rows` rows, which follow one another in one sequence: they
   read the same keys and values. No more than 16 together. */
static void attend(const Call *call, size_t number, int64_t row, int64_t rows, int64_t head, int64_t heads,
                   float *scores, const int kind) {
    const Model *model = call->model;
    const Step *step = call->step;
    const size_t width = model->width, key_head = head / (model->heads / model->key_heads), stride = call->stride;
    const int64_t queries = rows * heads;
    float query[TILE * MOST_WIDTH], packed[TILE * MOST_WIDTH / 2], sums[TILE * MOST_WIDTH];
    for (int64_t q = 0; q < queries; q++) {
        const int64_t own = row + q / heads, place = own * (model->heads + 2 * model->key_heads) + head + q % heads;
        float plain[MOST_WIDTH];
        turn(model, step, own, call->parts + place * width, model->layer[number].query_norm, plain, query + q * width,
             kind);
    }
    if (call->tiled) pack_rows(query, queries, width, packed);
    const size_t prefix = step->prefix_tokens, before = step->lengths[row], all_own = before + rows;
    const size_t shared = key_head * step->prefix_capacity * width;
    const size_t at = (step->places[row] * model->key_heads + key_head) * step->capacity * width;
    if (prefix)
        scores_of(call, query, packed, queries, step->prefix_keys[number], shared, prefix, scores, stride, kind);
    scores_of(call, query, packed, queries, step->keys[number], at, all_own, scores + prefix, stride, kind);
    float totals[TILE];
    for (int64_t q = 0; q < queries; q++) {
        float *own = scores + q * stride;
        const size_t tokens = prefix + before + 1 + q / heads, end = (tokens + LANES - 1) / LANES * LANES;
        for (size_t t = tokens; t < end; t++) own[t] = -INFINITY;
        Vector most = load(own);
        for (size_t t = LANES; t < end; t += LANES) most = chosen(load(own + t) > most, load(own + t), most);
        float highest = most[0];
        for (int lane = 1; lane < LANES; lane++) highest = most[lane] > highest ? most[lane] : highest;
        Vector sum = {0};
        for (size_t t = 0; t < end; t += LANES) {
            const Vector difference = load(own + t) - all(highest);
            const Vector weight = chosen(difference < -87.0f, (Vector){0}, exponential(difference));
            store(own + t, weight);
            sum += weight;
        }
        for (size_t t = end; t < prefix + all_own; t++) own[t] = 0.0f;
        totals[q] = sum_of(sum);
    }
    memset(sums, 0, queries * width * sizeof *sums);
    if (prefix) add_all_values(scores, stride, queries, step->prefix_values[number], shared, prefix, width, sums, kind);
    add_all_values(scores + prefix, stride, queries, step->values[number], at, all_own, width, sums, kind);
    for (int64_t q = 0; q < queries; q++) {
        float *y = call->attended + ((row + q / heads) * model->heads + head + q % heads) * width;
        for (size_t i = 0; i < width; i += LANES)
            store(y + i, rounded(load(sums + q * width + i) / all(totals[q]), kind));
    }
}

/* How many rows from `row` on follow one another in one sequence, `most` at most. */
static int64_t rows_together(const Step *step, int64_t row, int64_t most) {
    int64_t count = 1;
    while (count < most && row + count < step->rows && step->places[row + count] == step->places[row] &&
           step->lengths[row + count] == step->lengths[row] + count)
        count++;
    return count;
}

/* A thread's part of the attention of all rows. */
INLINE void attend_all(int thread, int threads, const Call *call, size_t number, float *scores, int kind) {
    const Model *model = call->model;
    const int64_t group = model->heads / model->key_heads, rows = call->step->rows;
    const int64_t heads = rows * model->key_heads >= 4 * threads && group <= TILE ? group : 1; /* a head each, of few */
    int64_t turn = 0;
    for (int64_t row = 0, count; row < rows; row += count) {
        count = rows_together(call->step, row, TILE / heads);
        for (int64_t head = 0; head < model->heads; head += heads, turn++)
            if (turn % threads == thread) {
                if (kind == BFLOAT16) attend(call, number, row, count, head, heads, scores, BFLOAT16);
                else attend(call, number, row, count, head, heads, scores, FLOAT32);
            }
    }
}

INLINE void add_to(float *x, const float *y, int64_t rows, size_t size, size_t first, size_t end, int kind) {
    for (int64_t r = 0; r < rows; r++)
        for (size_t i = r * size + first; i < r * size + end; i += LANES)
            store(x + i, rounded(load(x + i) + load(y + i), kind));
}

/* Rows after a norm, if there is one, as a product reads them. Many rows are prepared by all threads, a part each. */
INLINE Rows prepared(int thread, int threads, Call *call, const float *x, const void *weight, const Product *product,
                     Own *own, int kind) {
    const int64_t rows = call->step->rows, blocks = (rows + TILE - 1) / TILE, inputs = product->inputs;
    const int alone = call->alone;
    const int64_t first = alone ? 0 : blocks * thread / threads * TILE, last = blocks * (thread + 1) / threads * TILE;
    const int64_t end = alone || last > rows ? rows : last;
    for (int64_t r = first; weight && r < end; r++)
        norm(x + r * inputs, weight, inputs, call->model->eps, own->normed + r * inputs, kind);
    const float *plain = weight ? own->normed : x, *laid = lay_out(plain, first, end, product, own->laid, kind);
    if (!alone) meet(&call->barrier, threads);
    return (Rows){plain, laid};
}

INLINE void all_layers(int thread, int threads, Call *call, Own *own, int kind) {
    const Model *model = call->model;
    const int64_t rows = call->step->rows, key_heads = rows * model->key_heads;
    const size_t hidden = model->hidden, inner = model->inner;
    const size_t first = share(hidden, thread, threads), end = share(hidden, thread + 1, threads);
    const size_t from = share(inner, thread, threads), to = share(inner, thread + 1, threads);
    float *x = call->x, *sums = own->normed;
    for (int64_t number = 0; number < model->layers; number++) {
        const Layer *layer = &model->layer[number];
        const size_t parts = layer->query_key_value.outputs;
        Rows read = prepared(thread, threads, call, x, layer->attention_norm, &layer->query_key_value, own, kind);
        multiply(call, &layer->query_key_value, number, 0, read, share(parts, thread, threads),
                 share(parts, thread + 1, threads), call->parts, own, kind);
        meet(&call->barrier, threads);
        for (int64_t one = key_heads * thread / threads; one < key_heads * (thread + 1) / threads; one++)
            keep(call, number, one / model->key_heads, one % model->key_heads, kind);
        meet(&call->barrier, threads);
        attend_all(thread, threads, call, number, own->scores, kind);
        meet(&call->barrier, threads);
        read = prepared(thread, threads, call, call->attended, NULL, &layer->output, own, kind);
        multiply(call, &layer->output, number, 1, read, first, end, sums, own, kind);
        add_to(x, sums, rows, hidden, first, end, kind);
        meet(&call->barrier, threads);
        read = prepared(thread, threads, call, x, layer->feed_forward_norm, &layer->gate_up, own, kind);
        multiply(call, &layer->gate_up, number, 2, read, from, to, call->parts, own, kind);
        multiply(call, &layer->gate_up, number, 2, read, inner + from, inner + to, call->parts, own, kind);
        for (int64_t r = 0; r < rows; r++)
            for (size_t i = from; i < to; i += LANES) {
                const Vector gate = load(call->parts + r * 2 * inner + i);
                const Vector up = load(call->parts + r * 2 * inner + inner + i);
                const Vector gated = rounded(gate / (1.0f + exponential(-gate)), kind);
                store(call->activated + r * inner + i, rounded(gated * up, kind));
            }
        meet(&call->barrier, threads);
        read = prepared(thread, threads, call, call->activated, NULL, &layer->down, own, kind);
        multiply(call, &layer->down, number, 3, read, first, end, sums, own, kind);
        add_to(x, sums, rows, hidden, first, end, kind);
        meet(&call->barrier, threads);
    }
    for (int64_t r = thread; r < rows; r += threads)
        norm(x + r * hidden, model->norm, hidden, model->last_eps, x + r * hidden, kind);
}

typedef struct { Call call; Own *own; } Layers;

static void layers_of_kind(int thread, int threads, void *what) {
    Layers *layers = what;
    Call *call = &layers->call;
    Own *own = &layers->own[thread];
    TileShapes before;
    if (call->model->kind == BFLOAT16) {
        if (have_tiles()) begin_tiles(&before);
        all_layers(thread, threads, call, own, BFLOAT16);
        if (have_tiles()) end_tiles(&before);
    } else
        all_layers(thread, threads, call, own, FLOAT32);
}

static float *room_for(size_t values) {
    void *found = NULL;
    return posix_memalign(&found, 64, (values + LANES) * sizeof(float)) == 0 ? found : NULL;
}

INLINE size_t greater(size_t a, size_t b) { return a > b ? a : b; }

static size_t most_ranks(const Model *model, const Step *step) {
    size_t most = 0;
    for (int64_t r = 0; step->adapters && r < step->rows; r++)
        for (int64_t at = 0; step->row_adapter[r] >= 0 && at < model->layers * 4; at++)
            most = greater(most, step->adapters[step->row_adapter[r] * model->layers * 4 + at].ranks);
    return most;
}

/* Rows `first` to `end` of a step. */
static Step part_of(const Step *step, size_t first, size_t end, size_t width) {
    Step part = *step;
    part.rows = end - first;
    part.cosines += first * width, part.sines += first * width;
    part.places += first, part.lengths += first;
    if (step->adapters) part.row_adapter += first;
    return part;
}

/* Take x (rows, hidden), embeddings, through all layers and the last norm. 0, or 1 where there is no memory. Of one
   sequence earlier tokens come first: with many rows, they have been kept when later ones look back. */
int decode_step(const Model *model, const Step *step, float *x, int threads) {
    const size_t hidden = model->hidden, inner = model->inner, width = model->heads * model->width;
    const size_t rows = step->rows < CHUNK ? step->rows : CHUNK;
    const size_t parts = greater(width + 2 * model->key_heads * model->width, 2 * inner);
    const size_t inputs = greater(greater(hidden, inner), width);
    size_t tokens = step->prefix_tokens + 1;
    for (int64_t r = 0; r < step->rows; r++) tokens = greater(tokens, step->prefix_tokens + step->lengths[r] + 1);
    const size_t stride = (tokens + 2 * LANES) / LANES * LANES, scores = TILE * stride, ranks = most_ranks(model, step) / LANES * LANES + LANES;
    const size_t shared = rows * (parts + width + inner), laid = (rows + TILE) * inputs, own_size = scores + ranks;
    const int alone = rows <= FEW_ROWS;
    const size_t prepared_size = rows * hidden + laid;
    float *memory = room_for(shared + (alone ? threads : 1) * prepared_size + threads * own_size);
    Own *own = malloc(threads * sizeof *own);
    if (memory && own) {
        Layers layers = {{.model = model, .parts = memory, .alone = alone, .stride = stride}, own};
        layers.call.tiled = model->kind == BFLOAT16 && model->width % (2 * TILE) == 0 && have_tiles();
        layers.call.attended = memory + rows * parts;
        layers.call.activated = layers.call.attended + rows * width;
        float *next = memory + shared + (alone ? threads : 1) * prepared_size;
        for (int t = 0; t < threads; t++) {
            own[t].normed = memory + shared + (alone ? t : 0) * prepared_size;
            own[t].laid = own[t].normed + rows * hidden;
            own[t].scores = next + t * own_size;
            own[t].low = own[t].scores + scores;
        }
        for (size_t first = 0; first < (size_t)step->rows; first += rows) {
            const size_t end = first + rows < (size_t)step->rows ? first + rows : (size_t)step->rows;
            const Step part = part_of(step, first, end, model->width);
            layers.call.step = &part, layers.call.x = x + first * hidden;
            run_on(threads, layers_of_kind, &layers);
        }
    }
    const int failed = !memory || !own;
    free(memory), free(own);
    return failed;
}

static void head_of(int thread, int threads, void *what) {
    Call *call = what;
    const Product *head = &call->model->head;
    const int kind = (int)call->model->kind, tiled = is_tiled(head, kind);
    TileShapes before;
    if (tiled) begin_tiles(&before);
    outputs_of(&head->part[0], (int)head->kind, tiled, head->inputs, share(head->outputs, thread, threads),
               share(head->outputs, thread + 1, threads), call->x, call->step->rows, call->scores, head->outputs, kind);
    if (tiled) end_tiles(&before);
}

/* Scores (rows, vocabulary) of the next token, for hidden states x (rows, hidden). 0, or 1 where there is no memory. */
int decode_scores(const Model *model, int64_t rows, const float *x, float *scores, int threads) {
    const Step step = {.rows = rows};
    float *room = room_for((rows + TILE) * model->hidden);
    if (!room) return 1;
    Call call = {.model = model, .step = &step, .scores = scores};
    call.x = (float *)lay_out(x, 0, rows, &model->head, room, (int)model->kind);
    run_on(threads, head_of, &call);
    free(room);
    return 0;
}
