/* Decoding steps of a Llama-like model on a CPU: tokens through all layers in one call.

   A step of a few tokens reads every weight once, and reading them is what takes its time. Each layer is six phases
   with a barrier after each; a thread computes a part of the outputs of every product, and reads the weights where the
   model has them. What a token gives does not depend on the tokens beside it: each sum has one order. Values are
   float32 in between, rounded to the model's precision where transformers rounds them. Where there are matrix
   instructions (tiles.h), or those for pairs of bfloat16 (products.h), they compute the products of bfloat16 whatever
   the number of tokens, so prompts come here too.

   engine/inference/compiled_step.py declares the same structures and calls this. AHEAD was measured on two cores of a
   Xeon with AVX-512. */

#include <stdlib.h>

#include "attention.h"

#define FEW_ROWS 16  /* up to so many rows each thread lays out for itself what a product reads: a barrier costs more */
#define CHUNK 256    /* rows that go through all layers together: they stay in the cache of a core */

/* Rows beyond which torch's products are as fast. */
int64_t most_rows(const Model *model) {
    for (int64_t number = 0; number < model->layers; number++) {
        const Layer *layer = &model->layer[number];
        if (!is_tiled(&layer->query_key_value, model->kind) || !is_tiled(&layer->output, model->kind) ||
            !is_tiled(&layer->gate_up, model->kind) || !is_tiled(&layer->down, model->kind))
            return rows_worth_it((int)layer->down.kind);
    }
    return INT64_MAX;
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
    size_t tokens = 1;
    for (int64_t r = 0; r < step->rows; r++) tokens = greater(tokens, step->lengths[r] + 1);
    const size_t stride = whole_tiles(step->prefix_tokens) + whole_tiles(tokens);
    const size_t scores = TILE * stride, ranks = LOW_ROWS * most_ranks(model, step);
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

#define BLOCK 1024 /* tokens of the vocabulary whose scores are summed together: sums do not depend on the threads */

typedef struct {
    const Model *model;
    int64_t rows, blocks;
    const float *x; /* laid out */
    const int64_t *targets;
    float *most, *sums, *found; /* (blocks, rows), (blocks, rows), (rows) */
    float *scores;              /* (threads, rows, BLOCK) */
} Likelihood;

static void likelihoods_of(int thread, int threads, void *what) {
    Likelihood *call = what;
    const Product *head = &call->model->head;
    const int kind = (int)call->model->kind, tiled = is_tiled(head, kind);
    const int64_t rows = call->rows;
    float *scores = call->scores + thread * rows * BLOCK;
    TileShapes before;
    if (tiled) begin_tiles(&before);
    for (int64_t block = thread; block < call->blocks; block += threads) {
        const size_t first = block * BLOCK, left = head->outputs - first, count = left < BLOCK ? left : BLOCK;
        Part part = head->part[0];
        part.weight = (const char *)part.weight + first * head->inputs * size_of((int)head->kind);
        if (part.scales) part.scales += first;
        if (part.bias) part.bias = (const char *)part.bias + first * size_of(kind);
        outputs_of(&part, (int)head->kind, tiled, head->inputs, 0, count, call->x, rows, scores, BLOCK, kind);
        for (int64_t r = 0; r < rows; r++) {
            float *own = scores + r * BLOCK;
            const int64_t target = call->targets[r] - (int64_t)first;
            if (target >= 0 && target < (int64_t)count) call->found[r] = own[target];
            for (size_t o = count; o % LANES; o++) own[o] = -INFINITY;
            Vector most = load(own), sum = {0};
            for (size_t o = LANES; o < count; o += LANES) most = chosen(load(own + o) > most, load(own + o), most);
            const float highest = largest(most);
            for (size_t o = 0; o < count; o += LANES) {
                const Vector difference = load(own + o) - all(highest);
                sum += chosen(difference < -87.0f, (Vector){0}, exponential(difference));
            }
            call->most[block * rows + r] = highest, call->sums[block * rows + r] = sum_of(sum);
        }
    }
    if (tiled) end_tiles(&before);
}

/* The log-probability of a row's target (rows,) after hidden states x (rows, hidden), to found (rows,), in nats. */
int decode_likelihoods(const Model *model, int64_t rows, const float *x, const int64_t *targets, float *found,
                       int threads) {
    const int64_t blocks = (model->head.outputs + BLOCK - 1) / BLOCK;
    float *room = room_for((rows + TILE) * model->hidden + 2 * blocks * rows + threads * rows * BLOCK);
    if (!room) return 1;
    Likelihood call = {.model = model, .rows = rows, .blocks = blocks, .targets = targets, .found = found};
    call.scores = room + (rows + TILE) * model->hidden;
    call.most = call.scores + threads * rows * BLOCK, call.sums = call.most + blocks * rows;
    call.x = lay_out(x, 0, rows, &model->head, room, (int)model->kind);
    run_on(threads, likelihoods_of, &call);
    for (int64_t r = 0; r < rows; r++) {
        float most = call.most[r];
        for (int64_t b = 1; b < blocks; b++) most = call.most[b * rows + r] > most ? call.most[b * rows + r] : most;
        double sum = 0.0;
        for (int64_t b = 0; b < blocks; b++) sum += call.sums[b * rows + r] * expf(call.most[b * rows + r] - most);
        found[r] -= most + logf((float)sum);
    }
    free(room);
    return 0;
}
