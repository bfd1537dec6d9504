#pragma once

/* Products of the rows of a step with a model's weights, which are read where they are. */

#include "decoding.h"
#include "tiles.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#define PAIRED 1 /* an instruction multiplies pairs of bfloat16 as they are and adds them up in float32 */
INLINE Vector add_pairs(Vector sum, Vector a, Vector b) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#else
#define PAIRED 0
INLINE Vector add_pairs(Vector sum, Vector a, Vector b) { return sum + a * b; } /* never called */
#endif

#define TILE_ROWS 8
#define TILE_OUTPUTS 4
#define PANEL 64    /* outputs whose weights stay in a core's cache while all rows are multiplied with them */
#define AHEAD 16384 /* bytes ahead of which weights are asked for: 10.5 ms a token, 15.9 without (SmolLM2-135M) */

INLINE size_t size_of(int kind) { return kind == FLOAT32 ? 4 : kind == BFLOAT16 ? 2 : 1; }
INLINE int is_paired(int kind) { return PAIRED && kind == BFLOAT16; }

/* Vectors of numbers that `load_weights` makes at once. */
INLINE int ways(int kind) { return kind == INT8 ? 4 : kind == FLOAT32 || is_paired(kind) ? 1 : 2; }
INLINE size_t weights_at_once(int kind) { return kind == INT8 ? 4 * LANES : kind == FLOAT32 ? LANES : 2 * LANES; }

/* Rows and outputs that are multiplied together: as many sums as there are registers for, which are 32 of 16 numbers
   with AVX-512, elsewhere 16 of 8, or fewer. */
#ifdef __AVX512F__
INLINE int rows_at_once(int kind) { return is_paired(kind) || kind == FLOAT32 ? 6 : TILE_ROWS; }
INLINE int outputs_at_once(int rows, int kind) { return rows > 4 && rows_at_once(kind) == TILE_ROWS ? 2 : TILE_OUTPUTS; }
INLINE int64_t rows_worth_it(int kind) { return is_paired(kind) ? INT64_MAX : kind == FLOAT32 ? 64 : 16; }
#else
INLINE int rows_at_once(int kind) { return 4; }
INLINE int outputs_at_once(int rows, int kind) { return rows > 2 ? 1 : 2; }
INLINE int64_t rows_worth_it(int kind) { return 5; }
#endif

/* 16, 32 or 64 weights as `ways` vectors. Those of fewer bits are not in order: every second or fourth weight makes a
   vector, which costs a shift; `split` lays what they are multiplied with out likewise. */
INLINE void load_weights(const char *from, int kind, Vector *found) {
    if (kind == FLOAT32) {
        found[0] = load((const float *)from);
        return;
    }
    const Bits bits = *(const StoredBits *)from;
    if (is_paired(kind)) {
        found[0] = (Vector)bits;
        return;
    }
    if (kind == BFLOAT16) {
        found[0] = (Vector)(bits << 16), found[1] = (Vector)(bits & 0xffff0000u);
        return;
    }
    UNROLL for (int way = 0; way < 4; way++)
        found[way] = __builtin_convertvector((Whole)(bits << (24 - 8 * way)) >> 24, Vector);
}

/* Floats that a value takes once it is laid out, times two. */
INLINE size_t halves(int kind) { return is_paired(kind) ? 1 : 2; }

static void split(const float *x, size_t values, float *room, int kind) {
    if (kind == BFLOAT16)
        for (size_t i = 0; i < values; i += 2 * LANES) {
            Vector even, odd;
            split_two(x + i, &even, &odd);
            if (PAIRED) store(room + i / 2, (Vector)((Bits)even >> 16 | ((Bits)odd & 0xffff0000u)));
            else store(room + i, even), store(room + i + LANES, odd);
        }
    else
        for (size_t i = 0; i < values; i += 4 * LANES) {
            float two[4 * LANES];
            Vector found[4];
            for (int half = 0; half < 2; half++) {
                split_two(x + i + 2 * half * LANES, &found[0], &found[1]);
                store(two + half * LANES, found[0]), store(two + (2 + half) * LANES, found[1]);
            }
            split_two(two, &found[0], &found[2]);
            split_two(two + 2 * LANES, &found[1], &found[3]);
            for (int way = 0; way < 4; way++) store(room + i + way * LANES, found[way]);
        }
}

/* A few outputs of a few rows at a time, so that what is loaded is used several times. `x` is split. */
INLINE void tile(const char *weight, size_t inputs, const float *x, int outputs, int rows, int kind, float *y,
                 size_t stride) {
    const size_t size = size_of(kind), line = inputs * size, row = inputs * halves(kind) / 2;
    Vector sums[TILE_OUTPUTS][TILE_ROWS];
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < rows; r++) sums[o][r] = (Vector){0};
    for (size_t i = 0; i < inputs; i += weights_at_once(kind), x += ways(kind) * LANES) {
        Vector w[TILE_OUTPUTS][4];
        UNROLL for (int o = 0; o < outputs; o++) {
            const char *from = weight + o * line + i * size;
            __builtin_prefetch(from + AHEAD, 0, 2);
            load_weights(from, kind, w[o]);
        }
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int way = 0; way < ways(kind); way++) {
                const Vector value = load(x + r * row + way * LANES);
                UNROLL for (int o = 0; o < outputs; o++)
                    sums[o][r] = is_paired(kind) ? add_pairs(sums[o][r], w[o][way], value)
                                                 : sums[o][r] + w[o][way] * value;
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
    const size_t line = inputs * size_of(kind), row = inputs * halves(kind) / 2;
    const int outputs = outputs_at_once(rows, kind);
    size_t o = first;
    for (; o + outputs <= end; o += outputs) tile(weight + o * line, inputs, x, outputs, rows, kind, y + o, stride);
    if (o < end && first + outputs <= end) { /* the last ones together with some that were computed before */
        o = end - outputs;
        tile(weight + o * line, inputs, x, outputs, rows, kind, y + o, stride);
        return;
    }
    for (; o < end; o++)
        for (int r = 0; r < rows; r++)
            tile(weight + o * line, inputs, x + r * row, 1, 1, kind, y + r * stride + o, stride);
}

/* Outputs `first` to `end` of rows that are laid out. Rows are taken in groups of nearly one size. */
#define MATRIX(name, kind)                                                                                             \
    static void name(const char *weight, size_t inputs, size_t first, size_t end, const float *x, int64_t rows,        \
                     float *y, size_t stride) {                                                                        \
        const int64_t groups = (rows + rows_at_once(kind) - 1) / rows_at_once(kind);                                   \
        for (size_t o = first, next; o < end; o = next) {                                                              \
            next = o + PANEL < end ? o + PANEL : end;                                                                  \
            for (int64_t group = 0; group < groups; group++) {                                                         \
                const int64_t r = rows * group / groups;                                                               \
                const float *own = x + r * inputs * halves(kind) / 2;                                                  \
                float *to = y + r * stride;                                                                            \
                switch (rows * (group + 1) / groups - r) {                                                             \
                case 1: tiles(weight, inputs, o, next, own, 1, kind, to, stride); break;                               \
                case 2: tiles(weight, inputs, o, next, own, 2, kind, to, stride); break;                               \
                case 3: tiles(weight, inputs, o, next, own, 3, kind, to, stride); break;                               \
                case 4: tiles(weight, inputs, o, next, own, 4, kind, to, stride); break;                               \
                case 5: tiles(weight, inputs, o, next, own, 5, kind, to, stride); break;                               \
                case 6: tiles(weight, inputs, o, next, own, 6, kind, to, stride); break;                               \
                case 7: tiles(weight, inputs, o, next, own, 7, kind, to, stride); break;                               \
                default: tiles(weight, inputs, o, next, own, 8, kind, to, stride);                                     \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }
MATRIX(matrix_float32, FLOAT32)
MATRIX(matrix_bfloat16, BFLOAT16)
MATRIX(matrix_int8, INT8)

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
        float *to = room + first * inputs * halves((int)product->kind) / 2;
        split(x + first * inputs, (end - first) * inputs, to, (int)product->kind);
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

#define LOW_ROWS 4    /* rows that are multiplied together with an adapter's matrices */
#define LOW_VECTORS 3 /* and vectors of its ranks, which are a multiple of 16 */
#define UP_VECTORS 4  /* and of its outputs */

/* Some of the ranks of some rows x (rows, inputs), to low (rows, ranks). */
INLINE void low_tile(const LowRank *own, size_t from, const float *x, size_t inputs, int rows, int vectors, float *low) {
    const size_t ranks = own->ranks;
    Vector sums[LOW_ROWS][LOW_VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = (Vector){0};
    for (size_t i = 0; i < inputs; i++)
        UNROLL for (int v = 0; v < vectors; v++) {
            const Vector down = load(own->down + i * ranks + from + v * LANES);
            UNROLL for (int r = 0; r < rows; r++) sums[r][v] += all(x[r * inputs + i]) * down;
        }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(low + r * ranks + from + v * LANES, sums[r][v]);
}

/* What the ranks of some rows give for some outputs, added to y (rows, outputs). */
INLINE void add_up(const LowRank *own, size_t outputs, int rows, int vectors, const float *low, size_t from, float *y,
                   int kind) {
    Vector sums[LOW_ROWS][UP_VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = (Vector){0};
    for (size_t k = 0; k < (size_t)own->ranks; k++)
        UNROLL for (int v = 0; v < vectors; v++) {
            const Vector up = load(own->up + k * outputs + from + v * LANES);
            UNROLL for (int r = 0; r < rows; r++) sums[r][v] += all(low[r * own->ranks + k]) * up;
        }
    for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vectors; v++) {
            float *to = y + r * outputs + from + v * LANES;
            store(to, rounded(load(to) + sums[r][v], kind));
        }
}

INLINE void add_low_ranks(const LowRank *own, const float *x, size_t inputs, size_t outputs, int rows, size_t first,
                          size_t end, float *y, float *low, int kind) {
    const size_t ranks = own->ranks;
    for (size_t from = 0, left; from < ranks; from += LOW_VECTORS * LANES) {
        left = (ranks - from) / LANES;
        if (left == 1) low_tile(own, from, x, inputs, rows, 1, low);
        else if (left == 2) low_tile(own, from, x, inputs, rows, 2, low);
        else low_tile(own, from, x, inputs, rows, 3, low);
    }
    size_t o = first;
    for (; o + UP_VECTORS * LANES <= end; o += UP_VECTORS * LANES) add_up(own, outputs, rows, UP_VECTORS, low, o, y, kind);
    for (; o + LANES <= end; o += LANES) add_up(own, outputs, rows, 1, low, o, y, kind);
    for (; o < end; o++)
        for (int r = 0; r < rows; r++) {
            float sum = 0.0f;
            for (size_t k = 0; k < ranks; k++) sum += low[r * ranks + k] * own->up[k * outputs + o];
            y[r * outputs + o] = rounded_one(y[r * outputs + o] + sum, kind);
        }
}

/* Add what their adapter gives for outputs `first` to `end` of a product of some rows. */
static void add_adapter(const LowRank *own, const float *x, size_t inputs, size_t outputs, int64_t rows, size_t first,
                        size_t end, float *y, float *low, int kind) {
    for (; rows >= LOW_ROWS; rows -= LOW_ROWS, x += LOW_ROWS * inputs, y += LOW_ROWS * outputs)
        add_low_ranks(own, x, inputs, outputs, LOW_ROWS, first, end, y, low, kind);
    for (; rows > 0; rows--, x += inputs, y += outputs)
        add_low_ranks(own, x, inputs, outputs, 1, first, end, y, low, kind);
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
    for (int64_t r = 0, next; step->adapters && r < step->rows; r = next) {
        const int64_t adapter = step->row_adapter[r];
        for (next = r + 1; next < step->rows && step->row_adapter[next] == adapter;) next++;
        if (adapter < 0) continue;
        const LowRank *found = &step->adapters[(adapter * call->model->layers + layer) * 4 + number];
        if (found->ranks > 0)
            add_adapter(found, x.plain + r * product->inputs, product->inputs, product->outputs, next - r, first, end,
                        y + r * product->outputs, own->low, kind);
    }
}
