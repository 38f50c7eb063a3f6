/* Memory of the device under test: the host's own for "cpu"; for "cuda" a GPU's, through the driver API. The driver is
 * looked up at run time, so that the program builds without a CUDA toolkit and starts without a driver. C11 and C++17. */

#ifndef DEVICE_MEMORY_H
#define DEVICE_MEMORY_H

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The driver API, as far as it is used here: cuda.h's types spelled out. A CUdeviceptr is a 64-bit number. */
static struct {
    void *library;                                                       /* null: host memory */
    void *context;                                                       /* device 0's primary one */
    int (*init)(unsigned flags);                                         /* cuInit */
    int (*retain)(void **context, int device);                           /* cuDevicePrimaryCtxRetain */
    int (*set_current)(void *context);                                   /* cuCtxSetCurrent */
    int (*attribute)(int *value, int which, int device);                 /* cuDeviceGetAttribute */
    int (*create_stream)(void **stream, unsigned flags);                 /* cuStreamCreate */
    int (*synchronize)(void *stream);                                    /* cuStreamSynchronize */
    int (*allocate)(uint64_t *address, size_t bytes);                    /* cuMemAlloc */
    int (*release)(uint64_t address);                                    /* cuMemFree */
    int (*upload)(uint64_t to, const void *from, size_t, void *stream);  /* cuMemcpyHtoDAsync */
    int (*download)(void *to, uint64_t from, size_t, void *stream);      /* cuMemcpyDtoHAsync */
} cuda;

/* What the work is enqueued on: a stream of our own, which waits for no other. Null on the CPU. */
static void *stream;

static inline void cuda_check(int result, const char *what) {
    if (result != 0) {
        fprintf(stderr, "%s: CUresult %d\n", what, result);
        exit(1);
    }
}

/* Functions that changed since CUDA 3.2 have the suffix that cuda.h's macros would add. */
static inline void cuda_find(void *function, const char *name) {
    void *symbol = dlsym(cuda.library, name);
    if (symbol == NULL) {
        fprintf(stderr, "the driver has no %s\n", name);
        exit(1);
    }
    memcpy(function, &symbol, sizeof symbol); /* C has no cast from an object's pointer to a function's */
}

/* Makes the context current on this thread, as allocations want it; calls of the library do not need it. */
static inline void enter_thread(void) {
    if (cuda.library != NULL) cuda_check(cuda.set_current(cuda.context), "cuCtxSetCurrent");
}

/* Opens the driver and device 0's primary context: the one that the library works in. */
static inline void open_cuda(void) {
    cuda.library = dlopen("libcuda.so.1", RTLD_NOW);
    if (cuda.library == NULL) cuda.library = dlopen("libcuda.so", RTLD_NOW);
    if (cuda.library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    cuda_find(&cuda.init, "cuInit");
    cuda_find(&cuda.retain, "cuDevicePrimaryCtxRetain");
    cuda_find(&cuda.set_current, "cuCtxSetCurrent");
    cuda_find(&cuda.attribute, "cuDeviceGetAttribute");
    cuda_find(&cuda.create_stream, "cuStreamCreate");
    cuda_find(&cuda.synchronize, "cuStreamSynchronize");
    cuda_find(&cuda.allocate, "cuMemAlloc_v2");
    cuda_find(&cuda.release, "cuMemFree_v2");
    cuda_find(&cuda.upload, "cuMemcpyHtoDAsync_v2");
    cuda_find(&cuda.download, "cuMemcpyDtoHAsync_v2");
    cuda_check(cuda.init(0), "cuInit");
    cuda_check(cuda.retain(&cuda.context, 0), "cuDevicePrimaryCtxRetain");
    enter_thread();
    cuda_check(cuda.create_stream(&stream, 1 /* CU_STREAM_NON_BLOCKING */), "cuStreamCreate");
}

/* Whether kernels may use any host memory: Grace, and kernels with HMM. */
static inline int reads_host_memory(void) {
    int value = 0;
    cuda_check(cuda.attribute(&value, 88 /* CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS */, 0), "cuDeviceGetAttribute");
    return value;
}

static inline void *allocate(size_t bytes) {
    uint64_t address = 0;
    void *memory;
    bytes += bytes == 0; /* neither malloc nor cuMemAlloc is asked for nothing */
    if (cuda.library != NULL) {
        cuda_check(cuda.allocate(&address, bytes), "cuMemAlloc");
        return (void *)(uintptr_t)address;
    }
    memory = malloc(bytes);
    if (memory == NULL) exit(1);
    return memory;
}

/* Waits for the work that may still use the memory. */
static inline void release(void *memory) {
    if (cuda.library == NULL) {
        free(memory);
    } else if (memory != NULL) {
        cuda_check(cuda.synchronize(stream), "cuStreamSynchronize");
        cuda_check(cuda.release((uintptr_t)memory), "cuMemFree");
    }
}

/* Into memory from allocate(): after the work that the stream has, before what it gets. `from` is ordinary memory and may
 * change when this returns. */
static inline void upload(void *to, const void *from, size_t bytes) {
    if (bytes == 0) return;
    if (cuda.library != NULL) {
        cuda_check(cuda.upload((uintptr_t)to, from, bytes, stream), "cuMemcpyHtoDAsync");
    } else {
        memcpy(to, from, bytes);
    }
}

/* From memory of allocate(), when the stream has done its work. */
static inline void download(void *to, const void *from, size_t bytes) {
    if (bytes == 0) return;
    if (cuda.library != NULL) {
        cuda_check(cuda.download(to, (uintptr_t)from, bytes, stream), "cuMemcpyDtoHAsync");
        cuda_check(cuda.synchronize(stream), "cuStreamSynchronize");
    } else {
        memcpy(to, from, bytes);
    }
}

/* Memory with these bytes. */
static inline void *uploaded(const void *from, size_t bytes) {
    void *memory = allocate(bytes);
    upload(memory, from, bytes);
    return memory;
}

#endif
