#pragma once

/* Keys and values of rows into the cache, and the attention of rows over it. */

#include "decoding.h"
#include "tiles.h"

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
