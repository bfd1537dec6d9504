#pragma once

/* Keys and values of rows into the cache, and the attention of rows over it. */

#include "products.h"

/* Tokens for which there is room where so many are counted by 32. */
INLINE size_t whole_tiles(size_t tokens) { return (tokens + 2 * LANES - 1) / (2 * LANES) * (2 * LANES); }

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

/* Scores of one query, where a head's width is no multiple of 32. */
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

/* Scores of some queries of one key head, (queries, width) and laid out for a product, to (queries, stride). */
INLINE void scores_of(const Call *call, const float *query, const float *laid, int64_t queries, const void *keys,
                      size_t at, size_t tokens, float *scores, size_t stride, int kind) {
    const size_t width = call->model->width;
    const float scaling = call->model->scaling;
    if (call->tiled) {
        for (size_t t = 0; t < tokens; t += TILE)
            tiled_scores((const uint16_t *)keys + at + t * width, tokens - t, width, laid, queries, scaling,
                         scores + t, stride);
        return;
    }
    if (width % (2 * LANES) == 0) {
        if (kind == FLOAT32) matrix_float32((const char *)keys + 4 * at, width, 0, tokens, laid, queries, scores, stride);
        else matrix_bfloat16((const char *)keys + 2 * at, width, 0, tokens, laid, queries, scores, stride);
        for (int64_t q = 0; q < queries; q++)
            for (size_t t = 0; t < whole_tiles(tokens); t += LANES)
                store(scores + q * stride + t, load(scores + q * stride + t) * scaling);
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

/* Weights (tokens, a multiple of 32) as the sums of two numbers of bfloat16 each, in their place: 32 of the greater, 32
   of the smaller. What is lost is 2^-17 of a weight. */
INLINE void halve(float *weights, size_t tokens) {
    for (size_t t = 0; t < tokens; t += 2 * LANES) {
        const Vector first = load(weights + t), second = load(weights + t + LANES);
        const Vector great_first = rounded(first, BFLOAT16), great_second = rounded(second, BFLOAT16);
        store_kind(weights + t, 0, great_first, BFLOAT16), store_kind(weights + t, LANES, great_second, BFLOAT16);
        store_kind(weights + t, 2 * LANES, first - great_first, BFLOAT16);
        store_kind(weights + t, 3 * LANES, second - great_second, BFLOAT16);
    }
}

/* Keys and values of one key head: those of what all sequences begin with, then a sequence's own. */
typedef struct {
    const void *keys[2], *values[2];
    size_t at[2], tokens[2];
} Seen;

/* Weighted sums of what queries see, (queries, width); of each query there are weights for `from[1]` and later tokens
   of its own after those of the beginning. */
INLINE void sums_of_values(const Call *call, const Seen *seen, float *weights, const size_t *from, int64_t queries,
                           float *sums, int kind) {
    const size_t width = call->model->width, stride = call->stride;
    if (call->tiled) {
        for (int64_t q = 0; q < queries; q++) halve(weights + q * stride, from[1] + whole_tiles(seen->tokens[1]));
        for (size_t first = 0; first < width; first += 4 * LANES) {
            const int groups = width - first < 4 * LANES ? (width - first) / LANES : 4;
            no_sums();
            for (int part = 0; part < 2; part++) {
                const uint16_t *values = (const uint16_t *)seen->values[part] + seen->at[part] + first;
                const float *own = weights + from[part];
                if (groups == 4) tiled_values(own, stride, values, seen->tokens[part], width, 4);
                else tiled_values(own, stride, values, seen->tokens[part], width, groups);
            }
            write_values(sums + first, width, groups);
        }
        return;
    }
    memset(sums, 0, queries * width * sizeof *sums);
    for (int part = 0; part < 2; part++)
        add_all_values(weights + from[part], stride, queries, seen->values[part], seen->at[part], seen->tokens[part],
                       width, sums, kind);
}

/* Attention of `heads` heads, which share a key head, of `rows` rows, which follow one another in one sequence: they
   read the same keys and values. No more than 16 together. */
static void attend(const Call *call, size_t number, int64_t row, int64_t rows, int64_t head, int64_t heads,
                   float *scores, const int kind) {
    const Model *model = call->model;
    const Step *step = call->step;
    const size_t width = model->width, key_head = head / (model->heads / model->key_heads), stride = call->stride;
    const int64_t queries = rows * heads;
    float query[TILE * MOST_WIDTH], room[TILE * MOST_WIDTH], sums[TILE * MOST_WIDTH];
    for (int64_t q = 0; q < queries; q++) {
        const int64_t own = row + q / heads, place = own * (model->heads + 2 * model->key_heads) + head + q % heads;
        float plain[MOST_WIDTH];
        turn(model, step, own, call->parts + place * width, model->layer[number].query_norm, plain, query + q * width,
             kind);
    }
    const float *laid = kind == FLOAT32 ? query : room;
    if (call->tiled) pack_rows(query, queries, width, room);
    else if (kind == BFLOAT16 && width % (2 * LANES) == 0) split(query, queries * width, room, kind);
    const size_t before = step->lengths[row];
    Seen seen = {.keys = {NULL, step->keys[number]}, .values = {NULL, step->values[number]}};
    seen.at[1] = (step->places[row] * model->key_heads + key_head) * step->capacity * width;
    seen.tokens[1] = before + rows;
    if (step->prefix_tokens) {
        seen.keys[0] = step->prefix_keys[number], seen.values[0] = step->prefix_values[number];
        seen.at[0] = key_head * step->prefix_capacity * width, seen.tokens[0] = step->prefix_tokens;
    }
    const size_t from[2] = {0, whole_tiles(seen.tokens[0])};
    for (int part = 0; part < 2; part++)
        scores_of(call, query, laid, queries, seen.keys[part], seen.at[part], seen.tokens[part], scores + from[part],
                  stride, kind);
    float totals[TILE];
    for (int64_t q = 0; q < queries; q++) {
        float *own = scores + q * stride;
        const size_t last = from[1] + before + 1 + q / heads, end = from[1] + whole_tiles(seen.tokens[1]);
        for (size_t t = seen.tokens[0]; t < from[1]; t++) own[t] = -INFINITY;
        for (size_t t = last; t < end; t++) own[t] = -INFINITY;
        Vector most = load(own);
        for (size_t t = LANES; t < end; t += LANES) most = chosen(load(own + t) > most, load(own + t), most);
        const float highest = largest(most);
        Vector sum = {0};
        for (size_t t = 0; t < end; t += LANES) {
            const Vector difference = load(own + t) - all(highest);
            const Vector weight = chosen(difference < -87.0f, (Vector){0}, exponential(difference));
            store(own + t, weight);
            sum += weight;
        }
        totals[q] = sum_of(sum);
    }
    sums_of_values(call, &seen, scores, from, queries, sums, kind);
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
    const int64_t heads = rows * model->key_heads >= threads && group <= TILE ? group : 1; /* a head each, of few */
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
