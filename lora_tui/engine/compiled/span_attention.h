#pragma once

/* Causal attention of packed spans with rotary positions, forward and backward, float32 inside.

   A span's queries are taken a tile of rows at a time, and see no key after their tile's last one: the erased half is
   not computed. Forward keeps the logarithm of each query's sum alone (Dao et al. 2022, arXiv 2205.14135); backward
   computes the weights again. Keys lie transposed where scores are sums over a head's width, in order where they are
   summed. Every number has one order of its sum, on any number of threads. */

#include "threads.h"

#if defined(__AVX512F__) /* 32 registers of 16 numbers; 16 of 8; 32 of 4 */
#define PART 16
#define WIDE 4 /* parts of a row of a product computed at once */
#elif defined(__AVX__)
#define PART 8
#define WIDE 2
#else
#define PART 4
#define WIDE 4
#endif
typedef float Part __attribute__((vector_size(4 * PART))); /* one register: longer vectors are left in memory here */
typedef Part StoredPart __attribute__((aligned(1), may_alias));
#define TILE 6    /* rows of a product computed at once */
#define BLOCK 48  /* queries whose weights are at hand at once in the backward pass: a multiple of TILE */
#define LINE_GAP 16 /* numbers between lines of scores: lines whole pages apart would share few places of the cache */

typedef struct {
    const void *query, *key, *value; /* (tokens, key_heads · group · width), (tokens, key_heads · width) twice */
    void *output;                    /* as the queries: the result, or where it is given */
    const void *grad;                /* of the output */
    void *grad_query, *grad_key, *grad_value;
    float *log_sums;                 /* (tokens, key_heads · group) */
    const float *cosines, *sines;    /* (tokens, width / 2) */
    const int64_t *spans;            /* (span_count, 2): first token, and the one after the last */
    float *scratch;                  /* attention_scratch() numbers */
    int64_t span_count, tokens, key_heads, group, width, kind, longest;
    float scaling;
} Attention;

/* c (TILE, parts) = or += the sum over `steps` of a(row, step) · b(step, parts) */
INLINE void multiply_tile(const float *a, size_t a_row, size_t a_step, const float *b, size_t b_line, float *c,
                          size_t c_line, size_t steps, int parts, int adds) {
    Part sums[TILE][WIDE] = {0};
    for (size_t k = 0; k < steps; k++) {
        Part own[WIDE];
        UNROLL for (int p = 0; p < parts; p++) own[p] = *(const StoredPart *)(b + k * b_line + p * PART);
        UNROLL for (int r = 0; r < TILE; r++) {
            const float factor = a[r * a_row + k * a_step];
            UNROLL for (int p = 0; p < parts; p++) sums[r][p] += factor * own[p];
        }
    }
    UNROLL for (int r = 0; r < TILE; r++) UNROLL for (int p = 0; p < parts; p++) {
        StoredPart *to = (StoredPart *)(c + r * c_line + p * PART);
        if (adds) sums[r][p] += *to;
        *to = sums[r][p];
    }
}

/* The same for `columns`, a multiple of 16. */
INLINE void multiply(const float *a, size_t a_row, size_t a_step, const float *b, size_t b_line, float *c,
                     size_t c_line, size_t steps, size_t columns, int adds) {
    size_t i = 0;
    for (; i + WIDE * PART <= columns; i += WIDE * PART)
        multiply_tile(a, a_row, a_step, b + i, b_line, c + i, c_line, steps, WIDE, adds);
#if PART == LANES
    const size_t left = (columns - i) / PART;
    if (left == 1) multiply_tile(a, a_row, a_step, b + i, b_line, c + i, c_line, steps, 1, adds);
    if (left == 2) multiply_tile(a, a_row, a_step, b + i, b_line, c + i, c_line, steps, 2, adds);
    if (left == 3) multiply_tile(a, a_row, a_step, b + i, b_line, c + i, c_line, steps, 3, adds);
#endif
}

/* c (TILE, columns) = a (TILE, steps) · b (steps, columns), columns a multiple of 16. */
static __attribute__((noinline)) void product(const float *a, size_t a_line, const float *b, size_t b_line, float *c,
                                              size_t c_line, size_t steps, size_t columns) {
    multiply(a, a_line, 1, b, b_line, c, c_line, steps, columns, 0);
}

/* c (TILE, columns) += the transpose of a (steps, TILE) · b (steps, columns). */
static __attribute__((noinline)) void add_transposed(const float *a, size_t a_line, const float *b, size_t b_line,
                                                     float *c, size_t c_line, size_t steps, size_t columns) {
    multiply(a, 1, a_line, b, b_line, c, c_line, steps, columns, 1);
}

INLINE size_t up_to(size_t number, size_t multiple) { return (number + multiple - 1) / multiple * multiple; }

/* A head of a token as float32, turned by the token's angles where `turns` is 1 (-1: turned back), times a scale. */
INLINE void turned_head(const Attention *at, const float *from, float *to, size_t token, int turns, float scale) {
    const size_t half = at->width / 2;
    for (size_t i = 0; i < half; i += LANES) {
        const Vector cosine = load(at->cosines + token * half + i) * scale;
        const Vector sine = load(at->sines + token * half + i) * (turns * scale);
        const Vector a = load(from + i), b = load(from + half + i);
        store(to + i, a * cosine - b * sine);
        store(to + half + i, b * cosine + a * sine);
    }
}

INLINE void wide_head(const Attention *at, const void *from, size_t token, size_t heads, size_t head, float *to,
                      int kind) {
    const size_t first = (token * heads + head) * at->width;
    for (size_t i = 0; i < (size_t)at->width; i += LANES) store(to + i, load_kind(from, first + i, kind));
}

INLINE void store_head(const Attention *at, const float *from, void *to, size_t token, size_t heads, size_t head,
                       int kind) {
    const size_t first = (token * heads + head) * at->width;
    for (size_t i = 0; i < (size_t)at->width; i += LANES) store_kind(to, first + i, load(from + i), kind);
}

/* A head of a span, in order (rows (length, width)) and, where there is room for it, transposed ((width, line)). */
INLINE void gather_head(const Attention *at, const void *from, size_t first, size_t length, size_t head, float *rows,
                        float *transposed, size_t line, int turns, int kind) {
    const size_t width = at->width;
    for (size_t t = 0; t < length; t++) {
        wide_head(at, from, first + t, at->key_heads, head, rows + t * width, kind);
        if (turns) turned_head(at, rows + t * width, rows + t * width, first + t, turns, 1.0f);
    }
    memset(rows + length * width, 0, (up_to(length, LANES) - length) * width * sizeof(float));
    if (!transposed) return;
    for (size_t t = 0; t < length; t += LANES)
        for (size_t i = 0; i < width; i++) {
            Vector column = {0};
            UNROLL for (int j = 0; j < LANES; j++) column[j] = rows[(t + j) * width + i];
            store(transposed + i * line + t, column);
        }
}

/* Lanes of the numbers from `first` on that are at most `last`. */
INLINE Whole seen_until(size_t first, size_t last) {
    const Whole lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return lanes <= (int32_t)last - (int32_t)first;
}

/* Weights of the query at place `own`, not yet divided by their sum, in the place of its scores; zeros up to `line`.
   Returns the largest score and the sum. */
INLINE void weights_of_row(float *row, size_t own, size_t line, float *most, float *sum) {
    Vector highest = all(-INFINITY), sums = {0};
    for (size_t j = 0; j <= own; j += LANES) {
        const Vector score = chosen(seen_until(j, own), load(row + j), all(-INFINITY));
        highest = chosen(score > highest, score, highest);
    }
    *most = largest(highest);
    for (size_t j = 0; j < line; j += LANES) {
        const Vector weight = chosen(seen_until(j, own), exponential(load(row + j) - *most), (Vector){0});
        sums += weight;
        store(row + j, weight);
    }
    *sum = sum_of(sums);
}

/* Scratch of one thread: lines of a span's heads, and of scores. */
typedef struct {
    size_t line, score_line;
    float *keys, *values, *turned_keys, *turned_values; /* rows (length, width), transposed (width, line) */
    float *queries, *grads, *rows;                      /* (BLOCK, width) */
    float *weights, *slopes;                            /* (BLOCK, score_line) */
    float *grad_keys, *grad_values, *own_keys, *own_values; /* (length, width) */
} Room;

static size_t room_of(const Attention *at, float *from, Room *room) {
    const size_t line = up_to(at->longest, 3 * LANES), whole = line * at->width; /* of 6 rows, and of vectors */
    float *next = from;
    room->line = line + LINE_GAP, room->score_line = line + LINE_GAP;
    room->keys = next, next += whole;
    room->values = next, next += whole;
    room->turned_keys = next, next += room->line * at->width;
    room->turned_values = next, next += room->line * at->width;
    room->queries = next, next += BLOCK * at->width;
    room->grads = next, next += BLOCK * at->width;
    room->rows = next, next += BLOCK * at->width;
    room->weights = next, next += BLOCK * room->score_line;
    room->slopes = next, next += BLOCK * room->score_line;
    room->grad_keys = next, next += whole;
    room->grad_values = next, next += whole;
    room->own_keys = next, next += whole;
    room->own_values = next, next += whole;
    return next - from;
}

INLINE void attend(const Attention *at, const Room *room, size_t first, size_t length, size_t head, int kind) {
    const size_t width = at->width, heads = at->key_heads * at->group, line = room->score_line;
    float *scores = room->weights, most, sum;
    for (size_t t = 0; t < length; t += TILE) {
        const size_t count = length - t < TILE ? length - t : TILE, seen = t + count, columns = up_to(seen, LANES);
        for (size_t r = 0; r < TILE; r++) {
            float *query = room->queries + r * width;
            if (r >= count) {
                memset(query, 0, width * sizeof(float));
                continue;
            }
            wide_head(at, at->query, first + t + r, heads, head, query, kind);
            turned_head(at, query, query, first + t + r, 1, at->scaling);
        }
        product(room->queries, width, room->turned_keys, room->line, scores, line, width, columns);
        float scales[TILE] = {0};
        for (size_t r = 0; r < count; r++) {
            weights_of_row(scores + r * line, t + r, columns, &most, &sum);
            at->log_sums[(first + t + r) * heads + head] = most + logf(sum);
            scales[r] = 1.0f / sum;
        }
        product(scores, line, room->values, width, room->rows, width, seen, width);
        for (size_t r = 0; r < count; r++) {
            float *row = room->rows + r * width;
            for (size_t i = 0; i < width; i += LANES) store(row + i, load(row + i) * scales[r]);
            store_head(at, row, at->output, first + t + r, heads, head, kind);
        }
    }
}

/* The gradients of a head's queries, and of its keys and values, turned, as float32 (up_to(length, TILE), width). */
INLINE void attend_back(const Attention *at, const Room *room, size_t first, size_t length, size_t head,
                        float *own_keys, float *own_values, int kind) {
    const size_t width = at->width, heads = at->key_heads * at->group, line = room->score_line;
    memset(own_keys, 0, up_to(length, TILE) * width * sizeof(float));
    memset(own_values, 0, up_to(length, TILE) * width * sizeof(float));
    for (size_t from = 0; from < length; from += BLOCK) {
        const size_t count = length - from < BLOCK ? length - from : BLOCK;
        for (size_t r = 0; r < up_to(count, TILE); r++) {
            float *query = room->queries + r * width, *grad = room->grads + r * width;
            if (r >= count) {
                memset(query, 0, width * sizeof(float));
                memset(grad, 0, width * sizeof(float));
                continue;
            }
            wide_head(at, at->query, first + from + r, heads, head, query, kind);
            turned_head(at, query, query, first + from + r, 1, at->scaling);
            wide_head(at, at->grad, first + from + r, heads, head, grad, kind);
        }
        for (size_t t = 0; t < count; t += TILE) {
            const size_t rows = count - t < TILE ? count - t : TILE, seen = from + t + rows;
            const size_t columns = up_to(from + t + TILE, LANES); /* zeros beside rows that are none */
            float *weights = room->weights + t * line, *slopes = room->slopes + t * line;
            const float *queries = room->queries + t * width, *grads = room->grads + t * width;
            const size_t filled = columns < up_to(length, LANES) ? columns : up_to(length, LANES);
            product(queries, width, room->turned_keys, room->line, weights, line, width, filled);
            product(grads, width, room->turned_values, room->line, slopes, line, width, filled);
            for (size_t r = 0; r < TILE; r++) {
                float *weight = weights + r * line, *slope = slopes + r * line;
                if (r >= rows) {
                    memset(weight, 0, columns * sizeof(float));
                    memset(slope, 0, columns * sizeof(float));
                    continue;
                }
                const size_t own = from + t + r;
                const float log_sum = at->log_sums[(first + own) * heads + head];
                Vector products = {0};
                for (size_t j = 0; j < columns; j += LANES) {
                    const Whole lanes = seen_until(j, own);
                    const Vector p = chosen(lanes, exponential(load(weight + j) - log_sum), (Vector){0});
                    products += p * chosen(lanes, load(slope + j), (Vector){0});
                    store(weight + j, p);
                }
                const float mean = sum_of(products);
                for (size_t j = 0; j < columns; j += LANES)
                    store(slope + j, chosen(seen_until(j, own), load(weight + j) * (load(slope + j) - mean),
                                            (Vector){0}));
            }
            product(slopes, line, room->keys, width, room->rows, width, seen, width);
            for (size_t r = 0; r < rows; r++) { /* the transpose of a rotation is the one by the opposite angle */
                float *row = room->rows + r * width;
                turned_head(at, row, row, first + from + t + r, -1, at->scaling);
                store_head(at, row, at->grad_query, first + from + t + r, heads, head, kind);
            }
        }
        for (size_t j = 0; j < from + count; j += TILE) {
            const size_t start = j > from ? j - from : 0, steps = up_to(count, TILE) - start;
            const size_t at_key = start * line + j, at_query = start * width;
            add_transposed(room->weights + at_key, line, room->grads + at_query, width, own_values + j * width, width,
                           steps, width);
            add_transposed(room->slopes + at_key, line, room->queries + at_query, width, own_keys + j * width, width,
                           steps, width);
        }
    }
}

INLINE void gather_span(const Attention *at, const Room *room, size_t first, size_t length, size_t key_head, int back,
                        int kind) {
    gather_head(at, at->key, first, length, key_head, room->keys, room->turned_keys, room->line, 1, kind);
    gather_head(at, at->value, first, length, key_head, room->values, back ? room->turned_values : NULL, room->line, 0,
                kind);
}

INLINE void add_rows(float *to, const float *from, size_t numbers) {
    for (size_t i = 0; i < numbers; i += LANES) store(to + i, load(to + i) + load(from + i));
}

INLINE void store_key_gradients(const Attention *at, const Room *room, size_t first, size_t length, size_t key_head,
                                int kind) {
    for (size_t t = 0; t < length; t++) {
        float *row = room->grad_keys + t * at->width;
        turned_head(at, row, row, first + t, -1, 1.0f);
        store_head(at, row, at->grad_key, first + t, at->key_heads, key_head, kind);
        store_head(at, room->grad_values + t * at->width, at->grad_value, first + t, at->key_heads, key_head, kind);
    }
}

/* Where the gradients of one query head for its keys and values lie until those of its group are added: `whole` numbers
   each for one span, all heads in turn. */
INLINE float *of_head(const Attention *at, float *from, size_t span, size_t head, size_t whole) {
    return from + 2 * whole * (span * at->key_heads * at->group + head);
}

INLINE size_t whole_span(const Attention *at) { return up_to(at->longest, 3 * LANES) * at->width; }

/* What threads take one after the other: a key head of a span, or one query head where those are few. */
typedef struct {
    Attention *at;
    size_t room;       /* scratch of a thread */
    float *kept;       /* of all heads and spans, where query heads are taken one by one */
    int by_query_head; /* or by key head */
    atomic_int next;
} Units;

enum { FORWARD, BACKWARD, ADDING };

INLINE void work_on_units(Units *units, int thread, int way, int kind) {
    const Attention *at = units->at;
    Room room;
    room_of(at, at->scratch + thread * units->room, &room);
    const size_t single = units->by_query_head && way != ADDING, whole = whole_span(at);
    const size_t heads = single ? at->key_heads * at->group : at->key_heads;
    for (size_t unit; (unit = atomic_fetch_add(&units->next, 1)) < heads * at->span_count;) {
        const size_t span = unit / heads, first = at->spans[2 * span], length = at->spans[2 * span + 1] - first;
        const size_t key_head = single ? unit % heads / at->group : unit % heads;
        const size_t head = single ? unit % heads : key_head * at->group, end = single ? head + 1 : head + at->group;
        if (way != ADDING) gather_span(at, &room, first, length, key_head, way == BACKWARD, kind);
        if (way == BACKWARD && single) {
            float *own = of_head(at, units->kept, span, head, whole);
            attend_back(at, &room, first, length, head, own, own + whole, kind);
            continue;
        }
        if (way != FORWARD) memset(room.grad_keys, 0, length * at->width * sizeof(float));
        if (way != FORWARD) memset(room.grad_values, 0, length * at->width * sizeof(float));
        for (size_t h = head; h < end; h++) {
            float *own_keys = room.own_keys, *own_values = room.own_values;
            if (way == FORWARD) attend(at, &room, first, length, h, kind);
            if (way == BACKWARD) attend_back(at, &room, first, length, h, own_keys, own_values, kind);
            if (way == FORWARD) continue;
            if (way == ADDING) own_keys = of_head(at, units->kept, span, h, whole), own_values = own_keys + whole;
            add_rows(room.grad_keys, own_keys, length * at->width);
            add_rows(room.grad_values, own_values, length * at->width);
        }
        if (way != FORWARD) store_key_gradients(at, &room, first, length, key_head, kind);
    }
}

static void attend_units(int thread, int threads, void *what) {
    Units *units = what;
    if (units->at->kind == BFLOAT16) work_on_units(units, thread, FORWARD, BFLOAT16);
    else work_on_units(units, thread, FORWARD, FLOAT32);
}

static void attend_back_units(int thread, int threads, void *what) {
    Units *units = what;
    if (units->at->kind == BFLOAT16) work_on_units(units, thread, BACKWARD, BFLOAT16);
    else work_on_units(units, thread, BACKWARD, FLOAT32);
}

static void add_units(int thread, int threads, void *what) {
    Units *units = what;
    work_on_units(units, thread, ADDING, (int)units->at->kind);
}

INLINE Units units_of(Attention *at, int threads) {
    Room room;
    const int few = at->group > 1 && at->span_count * at->key_heads < 2 * threads && threads > 1;
    Units units = {.at = at, .room = room_of(at, at->scratch, &room), .by_query_head = few};
    units.kept = at->scratch + threads * units.room;
    return units;
}

/* How many numbers of scratch a call takes on so many threads, forward or backward. */
int64_t attention_scratch(Attention *at, int threads) {
    const Units units = units_of(at, threads);
    const size_t kept = at->grad && units.by_query_head ? at->span_count * at->key_heads * at->group : 0;
    return threads * units.room + 2 * whole_span(at) * kept;
}

/* output = softmax(query · keyᵀ · scaling) · value, queries and keys turned. */
void attention(Attention *at, int threads) {
    Units units = units_of(at, threads);
    run_on(threads, attend_units, &units);
}

/* The gradients of queries, keys and values. */
void attention_gradient(Attention *at, int threads) {
    Units units = units_of(at, threads);
    run_on(threads, attend_back_units, &units);
    if (!units.by_query_head) return;
    atomic_store(&units.next, 0);
    run_on(threads, add_units, &units);
}
