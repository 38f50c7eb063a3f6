/* What the C programs share: checks, numbers, tensors. */

#ifndef CONSUMER_H
#define CONSUMER_H

#include "device_memory.h"
#include "qlora_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition,               \
                    qlk_last_error_message());                                               \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)
#define OK(call) CHECK((call) == QLK_STATUS_OK)
/* The call fails with this status, and the message contains this text. */
#define FAILS(call, status, text)                                                            \
    do {                                                                                     \
        CHECK((call) == (status));                                                           \
        CHECK(strstr(qlk_last_error_message(), text) != NULL);                               \
    } while (0)
#define INVALID QLK_STATUS_INVALID_ARGUMENT

static qlk_context *context;
static qlk_device_kind kind = QLK_DEVICE_CPU;

static inline float noise(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u; /* Numerical Recipes' generator */
    return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

static inline float *random_floats(size_t count, uint32_t seed) {
    float *values = malloc(count * sizeof *values + 1); /* + 1: no zero-sized request */
    for (size_t i = 0; i < count; i++) values[i] = noise(&seed);
    return values;
}

static inline qlk_tensor tensor(void *data, uint64_t rows, uint64_t cols) {
    return (qlk_tensor){sizeof(qlk_tensor), QLK_DTYPE_F32, data, rows, cols, 0};
}

/* Usage: program [cpu | cuda] */
static inline void create_context(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "cuda") == 0) kind = QLK_DEVICE_CUDA;
    if (kind == QLK_DEVICE_CUDA) open_cuda();
    OK(qlk_context_create(kind, 0, &context));
}

#endif
