/* A C11 trainer in small: quantizes a weight, multiplies, finetunes an adapter; then tries everything that is wrong.
 * Usage: consumer [cpu | cuda] */

#include "consumer.h"

enum { M = 37, N = 65, K = 129, R = 4 };

static qlk_quantized allocate_quantized(const qlk_quant_spec *spec, uint64_t rows, uint64_t cols) {
    qlk_sizes sizes = {.struct_size = sizeof sizes};
    OK(qlk_quantized_sizes(spec, rows, cols, &sizes));
    return (qlk_quantized){
        .struct_size = sizeof(qlk_quantized),
        .spec = spec,
        .rows = rows,
        .cols = cols,
        .codes = allocate(sizes.code_bytes),
        .absmax = sizes.absmax_bytes ? allocate(sizes.absmax_bytes) : NULL,
        .absmax_codes = sizes.absmax_codes_bytes ? allocate(sizes.absmax_codes_bytes) : NULL,
        .absmax_scales = sizes.absmax_scales_bytes ? allocate(sizes.absmax_scales_bytes) : NULL,
        .absmax_offset = spec->constants != QLK_CONSTANTS_F32 ? allocate(sizeof(float)) : NULL,
    };
}

static void release_quantized(qlk_quantized *q) {
    release(q->codes);
    release(q->absmax);
    release(q->absmax_codes);
    release(q->absmax_scales);
    release(q->absmax_offset);
}

static void quantize(const qlk_tensor *x, const qlk_quantized *q) {
    uint64_t size;
    OK(qlk_quantize_workspace_size(context, q->spec, q->rows, q->cols, &size));
    void *workspace = allocate(size);
    OK(qlk_quantize(context, x, q, workspace, size, stream));
    release(workspace);
}

/* Double quantization by itself, both ways. */
static void nested_constants(const qlk_quantized *q) {
    enum { BLOCKS = (N * K + 63) / 64 };
    float first[BLOCKS], again[BLOCKS], *absmax = allocate(sizeof first);
    uint64_t size;
    OK(qlk_double_dequantize(context, q, absmax, stream));
    download(first, absmax, sizeof first);
    OK(qlk_double_quantize_workspace_size(context, BLOCKS, &size));
    void *workspace = allocate(size);
    OK(qlk_double_quantize(context, absmax, q, workspace, size, stream));
    if (size != 0) {
        FAILS(qlk_double_quantize(context, absmax, q, workspace, size - 1, stream), QLK_STATUS_WORKSPACE_TOO_SMALL, "needs");
    }
    OK(qlk_double_dequantize(context, q, absmax, stream));
    download(again, absmax, sizeof again);
    for (int i = 0; i < BLOCKS - 1; i++) { /* the last block has one element */
        CHECK(fabsf(first[i] - 1.0f) < 0.2f);
        CHECK(fabsf(again[i] - first[i]) < 0.02f);
    }
    release(workspace), release(absmax);
}

/* Quantizes in every format and looks at the error. */
static void formats(void) {
    float *w = random_floats(N * K, 1), *back = malloc(N * K * sizeof *back), user[16];
    qlk_tensor x = tensor(uploaded(w, N * K * sizeof *w), N, K), y = tensor(allocate(N * K * sizeof *w), N, K);
    for (int i = 0; i < 16; i++) user[i] = (float)(i - 7) / 8.0f;
    for (uint32_t codebook = QLK_CODEBOOK_NF4; codebook <= QLK_CODEBOOK_USER; codebook++) {
        for (uint32_t constants = QLK_CONSTANTS_F32; constants <= QLK_CONSTANTS_MAP; constants++) {
            qlk_quant_spec spec = {sizeof spec, codebook, 64, constants, codebook == QLK_CODEBOOK_USER ? user : NULL, NULL};
            qlk_quantized q = allocate_quantized(&spec, N, K);
            quantize(&x, &q);
            OK(qlk_dequantize(context, &q, &y, stream));
            download(back, y.data, N * K * sizeof *back);
            double error = 0, norm = 0;
            for (int i = 0; i < N * K; i++) {
                error += (w[i] - back[i]) * (double)(w[i] - back[i]);
                norm += w[i] * (double)w[i];
            }
            /* Uniform numbers; the coarsest type, E3M0, has a relative error of about 0.19. */
            CHECK(sqrt(error / norm) < 0.25);
            if (constants != QLK_CONSTANTS_F32) nested_constants(&q);
            float values[16];
            OK(qlk_codebook_values(&spec, values));
            CHECK(values[15] == (codebook >= QLK_CODEBOOK_FP4_E2M1 && codebook <= QLK_CODEBOOK_FP4_BNB ? values[15] : 1.0f));
            release_quantized(&q);
        }
    }
    /* 8 bits. */
    float map[256], *absmax = allocate((N * K + 255) / 256 * sizeof *absmax);
    uint8_t *codes = allocate(N * K);
    OK(qlk_dynamic_map(1, map));
    CHECK(map[127] == 0.0f && map[255] == 1.0f);
    OK(qlk_quantize_8bit(context, &x, map, 256, codes, absmax, stream));
    OK(qlk_dequantize_8bit(context, codes, absmax, NULL, 256, &y, stream));
    download(back, y.data, N * K * sizeof *back);
    for (int i = 0; i < N * K; i++) CHECK(fabsf(w[i] - back[i]) < 0.02f);
    release(absmax), release(codes), release(x.data), release(y.data);
    free(w);
    free(back);
}

/* Finetunes an adapter until the quantized layer maps x to a target: forward, backward, gradients, AdamW. */
static void finetune(void) {
    float *host_w = random_floats(N * K, 2), *host_x = random_floats(M * K, 3), *target = random_floats(M * N, 4);
    float *host_a = random_floats(R * K, 5), *zeros = calloc(2 * (R * K + N * R), sizeof *zeros), *bias_row = random_floats(N, 6);
    float *host_y = malloc(M * N * sizeof *host_y), host_dx[M * K];
    float *w = uploaded(host_w, N * K * sizeof *w), *x = uploaded(host_x, M * K * sizeof *x), *y = allocate(M * N * sizeof *y);
    float *a = uploaded(host_a, R * K * sizeof *a), *b = uploaded(zeros, N * R * sizeof *b), *bias = uploaded(bias_row, N * sizeof *bias);
    float *dx = allocate(M * K * sizeof *dx), *da = allocate(R * K * sizeof *da), *db = allocate(N * R * sizeof *db);
    float *state = uploaded(zeros, 2 * (R * K + N * R) * sizeof *state);
    qlk_quant_spec spec = {sizeof spec, QLK_CODEBOOK_NF4, 64, QLK_CONSTANTS_FP8, NULL, NULL};
    qlk_quantized q = allocate_quantized(&spec, N, K);
    qlk_tensor wt = tensor(w, N, K), xt = tensor(x, M, K), yt = tensor(y, M, N), at = tensor(a, R, K), bt = tensor(b, N, R);
    qlk_tensor dat = tensor(da, R, K), dbt = tensor(db, N, R), dxt = tensor(dx, M, K), biast = tensor(bias, 1, N);
    qlk_lora lora = {sizeof lora, 0.5f, &at, &bt};
    quantize(&wt, &q);

    uint64_t size;
    OK(qlk_gemm_workspace_size(context, M, N, K, R, &size));
    qlk_optimizer optimizer = {.struct_size = sizeof optimizer};
    OK(qlk_optimizer_init(QLK_RULE_ADAMW, &optimizer));
    optimizer.lr = 0.05f, optimizer.weight_decay = 0;
    float *moments = state + 2 * R * K;
    qlk_parameter trained[2] = {{sizeof(qlk_parameter), 32, &at, &dat, {state, state + R * K, NULL}, {NULL, NULL, NULL}},
                                {sizeof(qlk_parameter), 32, &bt, &dbt, {moments, moments + N * R, NULL}, {NULL, NULL, NULL}}};
    uint64_t optimizer_size;
    OK(qlk_optimizer_workspace_size(context, &optimizer, trained, 2, &optimizer_size));
    if (optimizer_size > size) size = optimizer_size;
    void *workspace = allocate(size);
    double first = 0, loss = 0;
    for (uint64_t step = 1; step <= 60; step++) {
        OK(qlk_gemm_forward(context, &xt, &q, &biast, &lora, &yt, workspace, size, stream));
        download(host_y, y, M * N * sizeof *y);
        loss = 0;
        for (int i = 0; i < M * N; i++) {
            float difference = host_y[i] - target[i];
            loss += difference * (double)difference / (M * N);
            host_y[i] = difference * 2 / (M * N); /* now dY */
        }
        if (step == 1) first = loss;
        upload(y, host_y, M * N * sizeof *y);
        OK(qlk_gemm_backward(context, &yt, &q, &lora, &dxt, 0, workspace, size, stream));
        OK(qlk_lora_gradients(context, &xt, &yt, &lora, &dat, &dbt, 0, workspace, size, stream));
        optimizer.step = step;
        OK(qlk_optimizer_step(context, &optimizer, trained, 2, NULL, workspace, size, stream));
    }
    download(host_dx, dx, sizeof host_dx);
    printf("loss %.3f -> %.3f\n", first, loss);
    CHECK(loss < 0.7 * first && isfinite(host_dx[0]));

    /* The bounds of every buffer are exact: one byte less of workspace is refused. */
    FAILS(qlk_gemm_forward(context, &xt, &q, NULL, &lora, &yt, workspace, 100, stream), QLK_STATUS_WORKSPACE_TOO_SMALL, "workspace_size is 100");
    FAILS(qlk_gemm_forward(context, &xt, &q, NULL, NULL, &yt, NULL, size, stream), INVALID, "workspace is null");
    FAILS(qlk_gemm_forward(context, &yt, &q, NULL, NULL, &yt, workspace, size, stream), INVALID, "x is 37 x 65");
    FAILS(qlk_gemm_forward(context, &xt, &q, &xt, NULL, &yt, workspace, size, stream), INVALID, "bias is 37 x 129");
    qlk_tensor overlapping = tensor(x, M, N);
    FAILS(qlk_gemm_forward(context, &xt, &q, NULL, NULL, &overlapping, workspace, size, stream), INVALID, "y overlaps x");
    FAILS(qlk_gemm_forward(context, &xt, &q, NULL, NULL, &yt, y, size, stream), INVALID, "workspace overlaps ");
    qlk_tensor onto_codes = tensor(q.codes, 1, 1), one = tensor(x, 1, 1);
    qlk_quantized small = q;
    small.rows = small.cols = 1;
    FAILS(qlk_gemm_forward(context, &one, &small, NULL, NULL, &onto_codes, workspace, size, stream), INVALID, "y overlaps codes");
    FAILS(qlk_lora_gradients(context, &xt, &yt, &lora, &dbt, &dbt, 0, workspace, size, stream), INVALID, "da is 65 x 4");
    FAILS(qlk_lora_gradients(context, &xt, &yt, &lora, &dat, &dbt, 2, workspace, size, stream), INVALID, "accumulate is 2");
    qlk_lora infinite = {sizeof lora, INFINITY, &at, &bt}, missing = {sizeof lora, 1.0f, &at, NULL};
    FAILS(qlk_gemm_backward(context, &yt, &q, &infinite, &dxt, 0, workspace, size, stream), INVALID, "lora.scale is inf");
    FAILS(qlk_gemm_backward(context, &yt, &q, &missing, &dxt, 0, workspace, size, stream), INVALID, "lora.b is null");

    release_quantized(&q);
    release(workspace), release(w), release(x), release(y), release(a), release(b), release(bias);
    release(dx), release(da), release(db), release(state);
    free(host_w), free(host_x), free(target), free(host_a), free(zeros), free(bias_row), free(host_y);
}

/* A GPU cannot read ordinary host memory: a pointer to it is refused before a kernel faults on it. */
static void host_pointers(void) {
    float host[64] = {0}, after[64], *device = uploaded(host, sizeof host), *absmax = allocate(sizeof *absmax);
    uint8_t host_codes[64] = {0}, *codes = uploaded(host_codes, sizeof host_codes);
    const char *no_memory = "which is no memory of the device";
    qlk_quant_spec spec = {sizeof spec, QLK_CODEBOOK_NF4, 64, QLK_CONSTANTS_F32, NULL, NULL};
    qlk_quantized q = {sizeof q, 0, &spec, 8, 8, codes, absmax, NULL, NULL, NULL};
    qlk_tensor x = tensor(host, 8, 8), y = tensor(device, 8, 8);
    FAILS(qlk_quantize(context, &x, &q, NULL, 0, stream), INVALID, no_memory);
    FAILS(qlk_dequantize(context, &q, &x, stream), INVALID, "out is at 0x");
    FAILS(qlk_quantize_8bit(context, &y, NULL, 64, host_codes, absmax, stream), INVALID, "codes is at 0x");
    FAILS(qlk_dequantize_8bit(context, codes, &host[63], NULL, 64, &y, stream), INVALID, "absmax is at 0x");
    q.codes = host_codes;
    FAILS(qlk_dequantize(context, &q, &y, stream), INVALID, "codes is at 0x");
    download(after, device, sizeof after);
    for (int i = 0; i < 64; i++) CHECK(host[i] == 0.0f && host_codes[i] == 0 && after[i] == 0.0f);
    release(device), release(absmax), release(codes);
}

static void bad_input(void) {
    qlk_context *made = NULL;
    uint64_t size = 99;
    uint32_t count;
    FAILS(qlk_context_create(QLK_DEVICE_CPU, 0, NULL), INVALID, "context is null");
    FAILS(qlk_context_create(QLK_DEVICE_CPU, 3, &made), INVALID, "ordinal is 3");
    FAILS(qlk_context_create(17, 0, &made), INVALID, "kind is 17");
    FAILS(qlk_device_count(17, &count), INVALID, "kind is 17");
    OK(qlk_device_count(QLK_DEVICE_CUDA, &count));
    if (count == 0) {
        FAILS(qlk_context_create(QLK_DEVICE_CUDA, 0, &made), QLK_STATUS_NO_DEVICE, "");
        CHECK(strlen(qlk_last_error_message()) > 0); /* no driver, or what it says */
    } else {
        FAILS(qlk_context_create(QLK_DEVICE_CUDA, 99, &made), INVALID, "ordinal is 99; there ");
    }
    CHECK(made == NULL);
    OK(qlk_context_destroy(NULL));
    FAILS(qlk_context_set_threads(context, 0), INVALID, "threads is 0");
    FAILS(qlk_context_set_threads(NULL, 1), INVALID, "context is null");

    /* Sizes: zero, odd, 2^40 elements, more than 64 bits. */
    qlk_quant_spec spec = {sizeof spec, QLK_CODEBOOK_NF4, 64, QLK_CONSTANTS_FP8, NULL, NULL};
    qlk_sizes sizes = {.struct_size = sizeof sizes};
    OK(qlk_quantized_sizes(&spec, 0, 0, &sizes));
    CHECK(sizes.code_bytes == 0 && sizes.blocks == 0);
    OK(qlk_quantized_sizes(&spec, 3, 43, &sizes));
    CHECK(sizes.code_bytes == 65 && sizes.absmax_codes_bytes == 3 && sizes.absmax_scales_bytes == 4);
    OK(qlk_quantized_sizes(&spec, UINT64_C(1) << 20, UINT64_C(1) << 20, &sizes));
    CHECK(sizes.elements == UINT64_C(1) << 40 && sizes.code_bytes == UINT64_C(1) << 39);
    CHECK(sizes.total_bytes * 8.0 / sizes.elements < 4.1270);
    FAILS(qlk_quantized_sizes(&spec, UINT64_C(1) << 33, UINT64_C(1) << 33, &sizes), QLK_STATUS_TOO_LARGE, "64 bits");
    FAILS(qlk_gemm_workspace_size(context, UINT64_MAX, 2, 2, 2, &size), QLK_STATUS_TOO_LARGE, "m 18446744073709551615");
    CHECK(sizes.elements == UINT64_C(1) << 40 && size == 99); /* untouched */
    FAILS(qlk_quantized_sizes(NULL, 1, 1, &sizes), INVALID, "spec is null");
    FAILS(qlk_quantized_sizes(&spec, 1, 1, NULL), INVALID, "sizes is null");
    FAILS(qlk_quantized_sizes((qlk_quant_spec *)((char *)&spec + 1), 1, 1, &sizes), INVALID, "aligned to 8");

    /* struct_size, enums, tables. */
    qlk_quant_spec bad = spec;
    bad.struct_size = 0;
    FAILS(qlk_quantized_sizes(&bad, 1, 1, &sizes), INVALID, "spec.struct_size is 0");
    bad.struct_size = sizeof bad - 4;
    FAILS(qlk_quantized_sizes(&bad, 1, 1, &sizes), INVALID, "spec.struct_size is 28; it must be 32");
    bad.struct_size = sizeof bad + 8;
    FAILS(qlk_quantized_sizes(&bad, 1, 1, &sizes), QLK_STATUS_UNSUPPORTED, "older than the header");
    bad = spec, bad.codebook = 6;
    FAILS(qlk_quantized_sizes(&bad, 1, 1, &sizes), INVALID, "spec.codebook is 6");
    bad = spec, bad.constants = 1000;
    FAILS(qlk_quantized_sizes(&bad, 1, 1, &sizes), INVALID, "spec.constants is 1000");
    bad = spec, bad.block_size = 48;
    FAILS(qlk_quantized_sizes(&bad, 1, 1, &sizes), INVALID, "spec.block_size is 48");
    bad = spec, bad.codebook = QLK_CODEBOOK_USER;
    FAILS(qlk_quantized_sizes(&bad, 1, 1, &sizes), INVALID, "spec.codebook_values is null");
    float user[16] = {0};
    bad.codebook_values = user;
    FAILS(qlk_quantized_sizes(&bad, 1, 1, &sizes), INVALID, "strictly ascend");

    /* Tensors and matrices. */
    float zeros[70] = {0}, *x = uploaded(zeros, sizeof zeros);
    uint16_t pattern[70], guard[70], *narrow_data;
    memset(pattern, 0x5a, sizeof pattern);
    narrow_data = uploaded(pattern, sizeof pattern);
    qlk_quantized q = allocate_quantized(&spec, 5, 13);
    uint64_t needed;
    OK(qlk_quantize_workspace_size(context, &spec, 5, 13, &needed));
    void *workspace = allocate(needed);
    qlk_tensor t = tensor(x, 5, 13);
    OK(qlk_quantize(context, &t, &q, workspace, needed, stream));
    FAILS(qlk_quantize(context, NULL, &q, workspace, needed, stream), INVALID, "x is null");
    FAILS(qlk_quantize(NULL, &t, &q, workspace, needed, stream), INVALID, "context is null");
    FAILS(qlk_quantize(context, &t, NULL, workspace, needed, stream), INVALID, "q is null");
    FAILS(qlk_quantize(context, &t, &q, workspace, needed - 5, stream), QLK_STATUS_WORKSPACE_TOO_SMALL, "needs");
    t.dtype = 3;
    FAILS(qlk_quantize(context, &t, &q, workspace, needed, stream), INVALID, "x.dtype is 3");
    t = tensor((char *)x + 2, 5, 13);
    FAILS(qlk_quantize(context, &t, &q, workspace, needed, stream), INVALID, "x.data is 0x");
    t = tensor(NULL, 5, 13);
    FAILS(qlk_quantize(context, &t, &q, workspace, needed, stream), INVALID, "x.data is null");
    t = tensor(x, 13, 5);
    FAILS(qlk_quantize(context, &t, &q, workspace, needed, stream), INVALID, "x is 13 x 5");
    t = tensor(x, UINT64_C(1) << 40, UINT64_C(1) << 40);
    FAILS(qlk_quantize(context, &t, &q, workspace, needed, stream), QLK_STATUS_TOO_LARGE, "address space");
    t = tensor(x, 5, 13), t.row_stride = 12;
    FAILS(qlk_quantize(context, &t, &q, workspace, needed, stream), INVALID, "x.row_stride is 12");
    qlk_quantized hollow = q;
    hollow.codes = NULL;
    t = tensor(x, 5, 13);
    FAILS(qlk_quantize(context, &t, &hollow, workspace, needed, stream), INVALID, "q.codes is null");
    hollow = q, hollow.absmax_offset = NULL;
    FAILS(qlk_dequantize(context, &hollow, &t, stream), INVALID, "q.absmax_offset is null");
    hollow = q, hollow.reserved = 1;
    FAILS(qlk_dequantize(context, &hollow, &t, stream), INVALID, "q.reserved is 1");
    hollow = q, hollow.rows = UINT64_C(1) << 62, hollow.cols = 8;
    FAILS(qlk_dequantize(context, &hollow, &t, stream), QLK_STATUS_TOO_LARGE, "q.rows");
    qlk_tensor narrow = {sizeof narrow, QLK_DTYPE_BF16, narrow_data, 5, 12, 0};
    FAILS(qlk_dequantize(context, &q, &narrow, stream), INVALID, "out is 5 x 12");
    download(guard, narrow_data, sizeof guard);
    CHECK(memcmp(guard, pattern, sizeof guard) == 0);

    /* Overlaps. */
    qlk_quantized small = q;
    small.rows = small.cols = 1;
    t = tensor(q.codes, 1, 1);
    FAILS(qlk_dequantize(context, &small, &t, stream), INVALID, "out overlaps codes");
    FAILS(qlk_quantize(context, &t, &small, workspace, needed, stream), INVALID, "codes overlaps x");
    FAILS(qlk_double_dequantize(context, &q, q.absmax_scales, stream), INVALID, "absmax overlaps absmax_scales");
    t = tensor(x, 5, 13);
    FAILS(qlk_dequantize_8bit(context, (uint8_t *)x, (float *)workspace, NULL, 256, &t, stream), INVALID, "out overlaps codes");

    spec.constants = QLK_CONSTANTS_F32;
    FAILS(qlk_double_quantize(context, x, &q, NULL, 0, stream), INVALID, "QLK_CONSTANTS_F32");
    uint8_t *codes = allocate(70);
    float map[256] = {1.0f};
    t = tensor(x, 5, 14);
    FAILS(qlk_quantize_8bit(context, &t, NULL, 100, codes, x, stream), INVALID, "block_size is 100");
    FAILS(qlk_quantize_8bit(context, &t, map, 256, codes, x, stream), INVALID, "must ascend");
    FAILS(qlk_quantize_8bit(context, &t, NULL, 256, NULL, x, stream), INVALID, "codes is null");
    release(workspace), release(x), release(narrow_data), release(codes);
    release_quantized(&q);

    CHECK(strcmp(qlk_status_string(QLK_STATUS_TOO_LARGE), "too large") == 0);
    CHECK(strcmp(qlk_status_string(12345), "unknown status") == 0);
}

int main(int argc, char **argv) {
    create_context(argc, argv);
    qlk_device_info info = {.struct_size = sizeof info};
    OK(qlk_context_info(context, &info));
    printf("qlora-kernels %u on %u threads, %s\n", qlk_version(), info.threads, info.instruction_set);
    CHECK(info.device_kind == kind && info.threads == (kind == QLK_DEVICE_CPU ? info.cores : 1));
    formats();
    finetune();
    if (kind == QLK_DEVICE_CPU) {
        OK(qlk_context_set_threads(context, 3));
        finetune();
    } else {
        CHECK(strncmp(info.instruction_set, "sm_", 3) == 0 && info.name[0] != 0);
        if (!reads_host_memory()) host_pointers();
    }
    bad_input();
    OK(qlk_context_destroy(context));
    puts("ok");
    return 0;
}
