#pragma once

/* What a decoding step works on. engine/inference/compiled_step.py declares the structures up to `Step` likewise. */

#include "threads.h"

#define MOST_PARTS 3
#define MOST_WIDTH 256

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

typedef struct { /* LoRA beside a product: (inputs, ranks) and (ranks, outputs), scaled; no ranks: nothing.
                    Ranks are a multiple of 16, the rest of them 0 */
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
