#pragma once

/* Sixteen numbers at a time, in float32; values of a model are float32 or bfloat16 (`kind`). Vectors are the compiler's
   own (gcc 9, clang 9): nothing here is for one processor alone. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#ifdef __clang__
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else /* gcc has the other since version 12 alone */
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, (Whole){__VA_ARGS__})
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

typedef float Vector __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef int32_t Whole __attribute__((vector_size(64)));
typedef uint16_t HalfBits __attribute__((vector_size(32)));
typedef Vector StoredVector __attribute__((aligned(1), may_alias));
typedef Bits StoredBits __attribute__((aligned(1), may_alias));
typedef HalfBits StoredHalfBits __attribute__((aligned(1), may_alias));

enum { FLOAT32, BFLOAT16, INT8 };

INLINE Vector load(const float *from) { return *(const StoredVector *)from; }
INLINE void store(float *to, Vector value) { *(StoredVector *)to = value; }
INLINE Vector all(float value) { return value - (Vector){0}; }
INLINE Vector chosen(Whole where, Vector yes, Vector no) {
    return (Vector)((where & (Whole)yes) | (~where & (Whole)no));
}

INLINE Bits rounded_bits(Vector value) { /* of the nearest bfloat16, ties to even */
    const Bits bits = (Bits)value;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

INLINE Vector rounded(Vector value, int kind) { return kind == BFLOAT16 ? (Vector)(rounded_bits(value) << 16) : value; }

INLINE float rounded_one(float value, int kind) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
    float found;
    memcpy(&found, &bits, sizeof bits);
    return kind == BFLOAT16 ? found : value;
}

INLINE Vector load_kind(const void *from, size_t at, int kind) { /* 16 values of a model's precision, in order */
    if (kind != BFLOAT16) return load((const float *)from + at);
    return (Vector)(__builtin_convertvector(*(const StoredHalfBits *)((const uint16_t *)from + at), Bits) << 16);
}

INLINE float load_one(const void *from, size_t at, int kind) {
    if (kind != BFLOAT16) return ((const float *)from)[at];
    const uint32_t bits = (uint32_t)((const uint16_t *)from)[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

INLINE void store_kind(void *to, size_t at, Vector value, int kind) {
    if (kind == BFLOAT16)
        *(StoredHalfBits *)((uint16_t *)to + at) = __builtin_convertvector(rounded_bits(value), HalfBits);
    else
        store((float *)to + at, value);
}

/* 32 numbers as those at even and at odd places. */
INLINE void split_two(const float *x, Vector *even, Vector *odd) {
    const Vector a = load(x), b = load(x + LANES);
    *even = SHUFFLED(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *odd = SHUFFLED(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

INLINE void sums_of_four(Vector a, Vector b, Vector c, Vector d, float *sums) {
    const Vector ab = SHUFFLED(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
                    + SHUFFLED(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const Vector cd = SHUFFLED(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
                    + SHUFFLED(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    Vector four = SHUFFLED(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
                + SHUFFLED(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    four += SHUFFLED(four, four, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    four += SHUFFLED(four, four, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    sums[0] = four[0], sums[1] = four[4], sums[2] = four[8], sums[3] = four[12];
}

INLINE float sum_of(Vector value) {
    float sums[4];
    sums_of_four(value, value, value, value, sums);
    return sums[0];
}

INLINE float largest(Vector value) {
    float found = value[0];
    for (int i = 1; i < LANES; i++) found = value[i] > found ? value[i] : found;
    return found;
}

INLINE Vector exponential(Vector x) { /* 2^n · p(r) with |r| <= ln 2 / 2, Cephes' polynomial: 1e-7 relative */
    x = chosen(x < -87.0f, all(-87.0f), x);
    x = chosen(x > 88.0f, all(88.0f), x);
    Vector n = x * 1.44269504f + 12582912.0f; /* adding 1.5 · 2^23 rounds to a whole number */
    const Whole power = (Whole)n - 0x4b400000;
    n -= 12582912.0f;
    const Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vector p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (Vector)((power + 127) << 23);
}

