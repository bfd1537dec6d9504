#pragma once

/* Products of bfloat16 by matrix instructions (AMX: Intel since Sapphire Rapids): 16 outputs of 16 rows and 32 inputs
   each. The weights are read where they are; the rows are laid out for it once a product. What a row gives does not
   depend on the rows beside it. Elsewhere `have_tiles` says 0. */

#include "vectors.h"

#define TILE 16          /* outputs and rows of a tile, and pairs of inputs */
#define FEW 3            /* rows up to which a value at a time is faster than turning a tile over */
#define STEPS_AHEAD 8    /* tiles of inputs ahead of which weights are asked for */

/* Columns become rows: four times the two halves are shuffled into one another. */
INLINE void turn_over(Vector *a) {
    Vector b[TILE];
    UNROLL for (int turn = 0; turn < 4; turn++) {
        UNROLL for (int i = 0; i < TILE / 2; i++) {
            b[2 * i] = SHUFFLED(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] = SHUFFLED(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        UNROLL for (int i = 0; i < TILE; i++) a[i] = b[i];
    }
}

/* Up to 16 rows of numbers that bfloat16 has, laid out for `tiled_outputs`: (pairs of inputs, 16 rows, 2). Of few rows
   the places of the others stay as they are: nobody looks at what is computed from them. */
static void pack_rows(const float *x, size_t rows, size_t inputs, float *room) {
    for (size_t i = 0; i < inputs; i += 2 * TILE) {
        Vector pairs[TILE] = {{0}};
        float *to = room + i / 2 * TILE;
        for (size_t r = 0; r < rows; r++) {
            Vector even, odd;
            split_two(x + r * inputs + i, &even, &odd);
            pairs[r] = (Vector)((Bits)even >> 16 | ((Bits)odd & 0xffff0000u));
        }
        if (rows <= FEW) {
            for (size_t r = 0; r < rows; r++)
                UNROLL for (int p = 0; p < TILE; p++) to[p * TILE + r] = pairs[r][p];
            continue;
        }
        turn_over(pairs);
        for (size_t p = 0; p < TILE; p++) store(to + p * TILE, pairs[p]);
    }
}

#if defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILE_DATA 18 /* Linux gives these registers to processes that ask: arch_prctl(ARCH_REQ_XCOMP_PERM) */
#define ASK_FOR 0x1023

static int have_tiles(void) {
    static int known = -1;
    if (known < 0) known = syscall(SYS_arch_prctl, ASK_FOR, TILE_DATA) == 0;
    return known;
}

/* Compilers do not know that tiles are loaded from memory: what was written there must be there before. */
#define WRITTEN __asm__ volatile("" ::: "memory")

typedef struct { uint8_t palette, start, unused[14]; uint16_t bytes[16]; uint8_t rows[16]; } TileShapes;

/* All eight tiles full, in this thread; `before` is what was, for `end_tiles`: other libraries may count on theirs. */
static void begin_tiles(TileShapes *before) {
    static const TileShapes own = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                   .rows = {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE}};
    _tile_storeconfig(before);
    _tile_loadconfig(&own);
}

static void end_tiles(const TileShapes *before) {
    if (before->palette) _tile_loadconfig(before);
    else _tile_release();
}

/* y (rows, stride) of 16 outputs from a tile's sums (outputs, rows). */
INLINE void write_sums(const float *sums, size_t rows, float *y, size_t stride) {
    if (rows <= FEW) {
        for (size_t r = 0; r < rows; r++)
            UNROLL for (int o = 0; o < TILE; o++) y[r * stride + o] = sums[o * TILE + r];
        return;
    }
    Vector a[TILE];
    UNROLL for (int i = 0; i < TILE; i++) a[i] = load(sums + i * TILE);
    turn_over(a);
    for (size_t r = 0; r < rows; r++) store(y + r * stride, a[r]);
}

INLINE void no_sums(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* One or two blocks of 16 outputs, `weight` their first line, for one or two blocks of 16 rows. */
INLINE void tile_block(const char *weight, size_t inputs, const float *x, int blocks, int pairs, int ask, size_t rows,
                       float *y, size_t stride) {
    const size_t line = 2 * inputs, next = inputs * TILE;
    float sums[4][TILE * TILE] __attribute__((aligned(64)));
    no_sums();
    WRITTEN;
    for (size_t i = 0; i < inputs; i += 2 * TILE) {
        const char *from = weight + 2 * i;
        if (ask) {
            const size_t later = i + 2 * TILE * STEPS_AHEAD;
            const char *ahead = weight + 2 * later + (later < inputs ? 0 : (blocks * TILE - 1) * line);
            UNROLL for (int o = 0; o < blocks * TILE; o++) __builtin_prefetch(ahead + o * line, 0, 2);
        }
        _tile_loadd(4, from, line);
        _tile_loadd(6, x + i / 2 * TILE, 4 * TILE);
        _tile_dpbf16ps(0, 4, 6);
        if (blocks > 1) {
            _tile_loadd(5, from + TILE * line, line);
            _tile_dpbf16ps(1, 5, 6);
        }
        if (pairs > 1) {
            _tile_loadd(7, x + next / 2 + i / 2 * TILE, 4 * TILE);
            _tile_dpbf16ps(2, 4, 7);
            if (blocks > 1) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], 4 * TILE);
    _tile_stored(1, sums[1], 4 * TILE);
    _tile_stored(2, sums[2], 4 * TILE);
    _tile_stored(3, sums[3], 4 * TILE);
    for (int pair = 0; pair < pairs; pair++)
        for (int block = 0; block < blocks; block++) {
            const size_t left = rows - pair * TILE;
            write_sums(sums[2 * pair + block], left < TILE ? left : TILE, y + pair * TILE * stride + block * TILE, stride);
        }
}

/* Outputs `first` to `end`, a multiple of 16 of them, of `rows` rows that `pack_rows` has laid out. */
static void tiled_outputs(const char *weight, size_t inputs, size_t first, size_t end, const float *x, size_t rows,
                          float *y, size_t stride) {
    for (size_t o = first; o < end; o += 2 * TILE)
        for (size_t r = 0; r < rows; r += 2 * TILE) {
            const char *from = weight + o * 2 * inputs;
            const float *own = x + r * inputs / 2;
            const size_t count = rows - r < 2 * TILE ? rows - r : 2 * TILE;
            float *to = y + r * stride + o;
            if (o + 2 * TILE <= end && count > TILE) tile_block(from, inputs, own, 2, 2, r == 0, count, to, stride);
            else if (o + 2 * TILE <= end) tile_block(from, inputs, own, 2, 1, r == 0, count, to, stride);
            else if (count > TILE) tile_block(from, inputs, own, 1, 2, r == 0, count, to, stride);
            else tile_block(from, inputs, own, 1, 1, r == 0, count, to, stride);
        }
}

/* Scores of up to 16 keys (tokens, width) for rows that `pack_rows` has laid out, scaled, to (rows, stride). */
static void tiled_scores(const uint16_t *keys, size_t tokens, size_t width, const float *x, size_t rows, float scaling,
                         float *scores, size_t stride) {
    uint16_t last[TILE * 256] __attribute__((aligned(64)));
    float sums[TILE * TILE] __attribute__((aligned(64)));
    if (tokens < TILE) { /* what lies behind them may be nobody's */
        memcpy(last, keys, tokens * width * sizeof *keys);
        memset(last + tokens * width, 0, (TILE - tokens) * width * sizeof *keys);
        keys = last;
    }
    _tile_zero(0);
    WRITTEN;
    for (size_t i = 0; i < width; i += 2 * TILE) {
        _tile_loadd(4, keys + i, 2 * width);
        _tile_loadd(6, x + i / 2 * TILE, 4 * TILE);
        _tile_dpbf16ps(0, 4, 6);
    }
    _tile_stored(0, sums, 4 * TILE);
    for (int i = 0; i < TILE; i++) store(sums + i * TILE, load(sums + i * TILE) * scaling);
    write_sums(sums, rows, scores, stride);
}

/* Sixteen values of 32 tokens in pairs of tokens, 0 where there are fewer: (pairs, 16, 2). */
INLINE void pack_values(const uint16_t *values, size_t tokens, size_t width, Bits *room) {
    for (size_t p = 0; p < TILE; p++) {
        Bits even = {0}, odd = {0};
        if (2 * p < tokens) even = __builtin_convertvector(*(const StoredHalfBits *)(values + 2 * p * width), Bits);
        if (2 * p + 1 < tokens)
            odd = __builtin_convertvector(*(const StoredHalfBits *)(values + (2 * p + 1) * width), Bits);
        room[p] = even | odd << 16;
    }
}

/* Add to tiles 0 to 3 what 16 queries find in `groups` times 16 values a token, by weights that `halve` has left.
   A tile's number is a part of its instruction, so each group is written out. */
INLINE void tiled_values(const float *weights, size_t stride, const uint16_t *values, size_t tokens, size_t width,
                         int groups) {
    for (size_t t = 0; t < tokens; t += 2 * TILE) {
        Bits room[4][TILE];
        for (int group = 0; group < groups; group++)
            pack_values(values + t * width + group * TILE, tokens - t, width, room[group]);
        WRITTEN;
        _tile_loadd(4, weights + t, 4 * stride);
        _tile_loadd(5, weights + t + TILE, 4 * stride);
        _tile_loadd(6, room[0], 4 * TILE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(0, 5, 6);
        if (groups > 1) {
            _tile_loadd(7, room[1], 4 * TILE);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(1, 5, 7);
        }
        if (groups > 2) {
            _tile_loadd(6, room[2], 4 * TILE);
            _tile_dpbf16ps(2, 4, 6);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (groups > 3) {
            _tile_loadd(7, room[3], 4 * TILE);
            _tile_dpbf16ps(3, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        WRITTEN; /* the room is used again */
    }
}

INLINE void write_values(float *sums, size_t width, int groups) {
    _tile_stored(0, sums, 4 * width);
    if (groups > 1) _tile_stored(1, sums + TILE, 4 * width);
    if (groups > 2) _tile_stored(2, sums + 2 * TILE, 4 * width);
    if (groups > 3) _tile_stored(3, sums + 3 * TILE, 4 * width);
}

#else
typedef struct { int none; } TileShapes;
static void no_sums(void) {}
static void write_values(float *sums, size_t width, int groups) { (void)sums, (void)width, (void)groups; }
static void tiled_values(const float *weights, size_t stride, const uint16_t *values, size_t tokens, size_t width,
                         int groups) {
    (void)weights, (void)stride, (void)values, (void)tokens, (void)width, (void)groups;
}
static int have_tiles(void) { return 0; }
static void begin_tiles(TileShapes *before) { (void)before; }
static void end_tiles(const TileShapes *before) { (void)before; }
static void tiled_outputs(const char *weight, size_t inputs, size_t first, size_t end, const float *x, size_t rows,
                          float *y, size_t stride) {
    (void)weight, (void)inputs, (void)first, (void)end, (void)x, (void)rows, (void)y, (void)stride;
}
static void tiled_scores(const uint16_t *keys, size_t tokens, size_t width, const float *x, size_t rows, float scaling,
                         float *scores, size_t stride) {
    (void)keys, (void)tokens, (void)width, (void)x, (void)rows, (void)scaling, (void)scores, (void)stride;
}
#endif
