/* A stand-in for cuBLAS: the functions that the GPU program uses, and the product itself by a kernel of one thread an
 * element, on whatever driver the process has loaded. With -DWRONG it takes transposed matrices as they are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum { OP_N = 0, OP_T = 1, R_32F = 0, R_16BF = 14, COMPUTE_32F = 68, GEMM_DEFAULT = -1 };

typedef int (*load_data)(void **module, const void *image);
typedef int (*get_function)(void **function, void *module, const char *name);
typedef int (*launch_kernel)(void *function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned shared,
                             void *stream, void **params, void **extra);

struct handle {
    void *stream, *workspace, *kernels[2];
    launch_kernel launch;
};

/* C[i, j] = alpha * sum over l of A[i, l] * B[l, j] + beta * C[i, j]; a step in i, l, j moves by so many elements. */
#define KERNEL(name, size, load, store)                                                                                \
    ".visible .entry " name "(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u32 pm, .param .u32 pn,\n"       \
    "  .param .u32 pk, .param .u64 pai, .param .u64 pal, .param .u64 pbl, .param .u64 pbj, .param .u64 pcj,\n"         \
    "  .param .f32 palpha, .param .f32 pbeta) {\n"                                                                     \
    ".reg .pred %p<4>; .reg .b16 %h<3>; .reg .b32 %r<12>; .reg .f32 %f<6>; .reg .b64 %a, %b, %c, %t, %u, %v;\n"        \
    "mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x; mad.lo.u32 %r0, %r0, %r1, %r2;\n"               \
    "ld.param.u32 %r3, [pm]; ld.param.u32 %r4, [pn]; ld.param.u32 %r5, [pk];\n"                                        \
    "rem.u32 %r6, %r0, %r3; div.u32 %r7, %r0, %r3; setp.ge.u32 %p0, %r7, %r4; @%p0 ret;\n"                             \
    "cvt.u64.u32 %u, %r6; cvt.u64.u32 %v, %r7; mov.b16 %h0, 0;\n"                                                      \
    "ld.param.u64 %a, [pa]; ld.param.u64 %t, [pai]; mul.lo.u64 %t, %t, %u; mad.lo.u64 %a, %t, " size ", %a;\n"         \
    "ld.param.u64 %b, [pb]; ld.param.u64 %t, [pbj]; mul.lo.u64 %t, %t, %v; mad.lo.u64 %b, %t, " size ", %b;\n"         \
    "ld.param.u64 %c, [pc]; ld.param.u64 %t, [pcj]; mad.lo.u64 %t, %t, %v, %u; mad.lo.u64 %c, %t, " size ", %c;\n"     \
    "ld.param.u64 %u, [pal]; mul.lo.u64 %u, %u, " size "; ld.param.u64 %v, [pbl]; mul.lo.u64 %v, %v, " size ";\n"      \
    "mov.f32 %f0, 0f00000000; mov.u32 %r8, 0;\n"                                                                       \
    "loop: setp.ge.u32 %p1, %r8, %r5; @%p1 bra done;\n" load("%f1", "%a") load("%f2", "%b")                            \
    "fma.rn.f32 %f0, %f1, %f2, %f0; add.u64 %a, %a, %u; add.u64 %b, %b, %v; add.u32 %r8, %r8, 1; bra loop;\n"          \
    "done: ld.param.f32 %f3, [palpha]; mul.rn.f32 %f0, %f0, %f3; ld.param.f32 %f4, [pbeta];\n"                         \
    "setp.eq.f32 %p2, %f4, 0f00000000; @%p2 bra write;\n" load("%f5", "%c") "fma.rn.f32 %f0, %f4, %f5, %f0;\n"         \
    "write:\n" store "ret;\n}\n"
#define LOAD_BF16(to, from) "ld.global.b16 %h1, [" from "]; mov.b32 " to ", {%h0, %h1};\n"
#define LOAD_F32(to, from) "ld.global.f32 " to ", [" from "];\n"

static const char ptx[] = ".version 7.8\n.target sm_80\n.address_size 64\n"
    KERNEL("bf16", "2", LOAD_BF16, "cvt.rn.bf16.f32 %h2, %f0; st.global.b16 [%c], %h2;\n")
    KERNEL("f32", "4", LOAD_F32, "st.global.f32 [%c], %f0;\n");

int cublasCreate_v2(struct handle **handle) {
    void *driver = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD), *module;
    if (!driver) driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (!driver) return NOT_INITIALIZED;
    load_data load = (load_data)dlsym(driver, "cuModuleLoadData");
    get_function get = (get_function)dlsym(driver, "cuModuleGetFunction");
    struct handle *h = calloc(1, sizeof *h);
    h->launch = (launch_kernel)dlsym(driver, "cuLaunchKernel");
    if (load(&module, ptx) || get(&h->kernels[0], module, "bf16") || get(&h->kernels[1], module, "f32")) {
        free(h);
        return NOT_INITIALIZED;
    }
    *handle = h;
    return SUCCESS;
}

int cublasDestroy_v2(struct handle *handle) {
    free(handle);
    return SUCCESS;
}

int cublasGetVersion_v2(struct handle *handle, int *version) {
    (void)handle;
    *version = 1;
    return SUCCESS;
}

int cublasSetStream_v2(struct handle *handle, void *stream) {
    handle->stream = stream;
    handle->workspace = NULL;
    return SUCCESS;
}

int cublasSetWorkspace_v2(struct handle *handle, void *workspace, size_t size) {
    if (((uintptr_t)workspace & 255) || !size) return INVALID_VALUE;
    handle->workspace = workspace;
    return SUCCESS;
}

int cublasGemmEx(struct handle *handle, int transa, int transb, int m, int n, int k, const void *alpha, const void *a,
                 int a_type, int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc,
                 int compute, int algorithm) {
    if (!handle->workspace || compute != COMPUTE_32F || algorithm != GEMM_DEFAULT) return INVALID_VALUE;
    if (a_type != b_type || a_type != c_type || (a_type != R_16BF && a_type != R_32F)) return NOT_SUPPORTED;
    if (lda < (transa ? k : m) || ldb < (transb ? n : k) || ldc < m) return INVALID_VALUE;
#ifdef WRONG
    transa = transb = OP_N;
#endif
    uint64_t ai = transa ? lda : 1, al = transa ? 1 : lda, bl = transb ? ldb : 1, bj = transb ? 1 : ldb, cj = ldc;
    void *params[] = {&a,  &b,  &c,  &m,  &n,  &k, &ai, &al, &bl, &bj, &cj, (void *)alpha, (void *)beta};
    unsigned blocks = (unsigned)(((uint64_t)m * n + 127) / 128);
    void *kernel = handle->kernels[a_type == R_32F];
    return handle->launch(kernel, blocks, 1, 1, 128, 1, 1, 0, handle->stream, params, NULL) ? EXECUTION_FAILED : SUCCESS;
}
