/* A C11 trainer's optimizer: steps with states in its own memory and in a pager's, saved in between and continued elsewhere; then
 * everything that is wrong.
 * Usage: optimizer [cpu | cuda] */

#include "consumer.h"

enum { ROWS = 200, COLS = 199, ELEMENTS = ROWS * COLS, SMALL = 63, BUDGET = 256 << 10 };

/* Two parameters: a large one with states of 32 bits, which do not fit the budget, and a small one with states of 8 bits. */
typedef struct {
    qlk_tensor param[2], grad[2];
    qlk_parameter trained[2];
} model;

/* The states, one after another. */
typedef struct {
    float values[2][ELEMENTS];
    uint8_t codes[2][SMALL + 1];
    float absmax[2][1];
} states;

static void initialize(model *m, states *s) {
    const uint64_t shapes[2][2] = {{ROWS, COLS}, {7, 9}};
    for (uint32_t i = 0; i < 2; i++) {
        const size_t count = shapes[i][0] * shapes[i][1];
        float *param = random_floats(count, i), *grad = random_floats(count, 10 + i);
        m->param[i] = tensor(uploaded(param, count * sizeof *param), shapes[i][0], shapes[i][1]);
        m->grad[i] = tensor(uploaded(grad, count * sizeof *grad), shapes[i][0], shapes[i][1]);
        m->trained[i] = (qlk_parameter){.struct_size = sizeof(qlk_parameter), .state_bits = i == 0 ? 32 : 8,
                                        .param = &m->param[i], .grad = &m->grad[i]};
        for (int j = 0; j < 2; j++) {
            m->trained[i].states[j] = i == 0 ? (void *)s->values[j] : (void *)s->codes[j];
            m->trained[i].absmax[j] = i == 0 ? NULL : s->absmax[j];
        }
        free(param), free(grad);
    }
}

static void release_model(model *m) {
    for (int i = 0; i < 2; i++) release(m->param[i].data), release(m->grad[i].data);
}

/* States in the device's own memory. */
static states *own_states(void) {
    states *zeros = calloc(1, sizeof *zeros), *s = uploaded(zeros, sizeof *zeros);
    free(zeros);
    return s;
}

static qlk_optimizer adamw(void) {
    qlk_optimizer optimizer = {.struct_size = sizeof optimizer};
    OK(qlk_optimizer_init(QLK_RULE_ADAMW, &optimizer));
    CHECK(optimizer.step == 1 && optimizer.beta2 > 0.99f && optimizer.max_norm == 0);
    optimizer.lr = 0.05f, optimizer.max_norm = 10;
    return optimizer;
}

/* A step, in a pager's windows if there is one; none of the elements is kept. */
static void step(qlk_pager *pager, const qlk_optimizer *optimizer, model *m) {
    uint64_t size, zero = 0, count = 1, *kept = uploaded(&zero, sizeof zero);
    if (pager == NULL) {
        OK(qlk_optimizer_workspace_size(context, optimizer, m->trained, 2, &size));
    } else {
        OK(qlk_optimizer_workspace_size(context, optimizer, m->trained, 2, &size));
    }
    void *workspace = allocate(size);
    if (pager == NULL) {
        OK(qlk_optimizer_step(context, optimizer, m->trained, 2, kept, workspace, size, stream));
    } else {
        OK(qlk_optimizer_step_paged(context, pager, optimizer, m->trained, 2, kept, workspace, size, stream));
    }
    download(&count, kept, sizeof count);
    CHECK(count == 0);
    release(workspace), release(kept);
}

static void *save(qlk_pager *pager, const qlk_optimizer *optimizer, model *m, uint64_t *size) {
    OK(qlk_optimizer_states_size(optimizer, m->trained, 2, size));
    void *saved = malloc(*size);
    OK(qlk_optimizer_states_save(context, pager, optimizer, m->trained, 2, saved, *size, stream));
    return saved;
}

/* Parameters and states have the same bits. */
static void same(qlk_pager *pager, const qlk_optimizer *optimizer, model *a, model *b) {
    uint64_t size, other_size;
    void *saved = save(NULL, optimizer, a, &size), *other = save(pager, optimizer, b, &other_size);
    CHECK(size == other_size && memcmp(saved, other, size) == 0);
    free(saved), free(other);
    static float left[ELEMENTS], right[ELEMENTS];
    for (int i = 0; i < 2; i++) {
        const size_t bytes = a->param[i].rows * a->param[i].cols * sizeof *left;
        download(left, a->param[i].data, bytes), download(right, b->param[i].data, bytes);
        CHECK(memcmp(left, right, bytes) == 0);
    }
}

static void paged(qlk_pager_kind asked, qlk_pager_kind made) {
    qlk_pager_options options = {sizeof options, asked, BUDGET, made == QLK_PAGER_FILE ? "/tmp" : NULL};
    qlk_pager *pager = NULL;
    OK(qlk_pager_create(context, &options, &pager));
    qlk_optimizer optimizer = adamw();
    void *first = NULL, *second = NULL;
    OK(qlk_pager_alloc(pager, sizeof(states), &first));
    CHECK((uintptr_t)first % 256 == 0);
    states *own = own_states();
    model plain, windows;
    initialize(&plain, own), initialize(&windows, first);

    step(NULL, &optimizer, &plain), step(pager, &optimizer, &windows);
    OK(qlk_pager_advise(pager, ((states *)first)->codes, 2 * (SMALL + 1), QLK_ADVICE_STAY));
    OK(qlk_pager_advise(pager, first, 4 * ELEMENTS, QLK_ADVICE_PASS));
    OK(qlk_pager_advise(pager, first, 4 * ELEMENTS, QLK_ADVICE_NORMAL));
    OK(qlk_pager_prefetch(context, pager, first, sizeof(states), stream));
    optimizer.step = 2;
    step(NULL, &optimizer, &plain), step(pager, &optimizer, &windows);
    same(pager, &optimizer, &plain, &windows);
    qlk_pager_statistics statistics = {.struct_size = sizeof statistics};
    OK(qlk_pager_get_statistics(pager, &statistics));
    CHECK(statistics.struct_size == sizeof statistics && statistics.kind == made && statistics.budget == BUDGET);
    CHECK(statistics.allocations == 1 && statistics.allocated_bytes == sizeof(states) && statistics.steps == 2);
    CHECK(statistics.windows > 1 && statistics.staying_bytes > 0 && statistics.staying_bytes <= BUDGET);
    CHECK(statistics.bytes_in > 0 && statistics.bytes_out > 0);

    /* Evicted, it is the host's to read. */
    OK(qlk_pager_evict(context, pager, first, sizeof(states), stream));
    states *read = malloc(sizeof *read);
    download(read, own, sizeof *read); /* which waits for the stream */
    CHECK(memcmp(read->values, ((states *)first)->values, sizeof read->values) == 0);
    free(read);

    /* Continued in other memory, with the parameters as they are. */
    uint64_t size;
    void *saved = save(pager, &optimizer, &windows, &size);
    OK(qlk_pager_alloc(pager, sizeof(states), &second));
    OK(qlk_pager_free(pager, first));
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2; j++) {
            windows.trained[i].states[j] = i == 0 ? (void *)((states *)second)->values[j] : (void *)((states *)second)->codes[j];
            windows.trained[i].absmax[j] = i == 0 ? NULL : ((states *)second)->absmax[j];
        }
    }
    optimizer.step = 99;
    OK(qlk_optimizer_states_restore(context, pager, &optimizer, windows.trained, 2, saved, size, stream));
    CHECK(optimizer.step == 2);
    optimizer.step = 3;
    step(NULL, &optimizer, &plain), step(pager, &optimizer, &windows);
    same(pager, &optimizer, &plain, &windows);

    free(saved), release(own);
    release_model(&plain), release_model(&windows);
    OK(qlk_pager_destroy(pager)); /* and what it still had given */
}

/* What is wrong with a step. */
static void bad_steps(void) {
    states *own = own_states();
    model m;
    initialize(&m, own);
    qlk_optimizer optimizer = adamw();
    uint64_t size;
    OK(qlk_optimizer_workspace_size(context, &optimizer, m.trained, 2, &size));
    void *workspace = allocate(size);
#define STEP(optimizer, parameters) qlk_optimizer_step(context, optimizer, parameters, 2, NULL, workspace, size, stream)
    optimizer.step = 0;
    FAILS(STEP(&optimizer, m.trained), INVALID, "step is 0");
    optimizer.step = 1, optimizer.reserved = 7;
    FAILS(STEP(&optimizer, m.trained), INVALID, "optimizer.reserved is 7");
    optimizer.reserved = 0, optimizer.rule = 10;
    FAILS(STEP(&optimizer, m.trained), INVALID, "rule is 10");
    optimizer.rule = QLK_RULE_ADAMW, optimizer.stochastic_rounding = 2;
    FAILS(STEP(&optimizer, m.trained), INVALID, "stochastic_rounding is 2");
    optimizer.stochastic_rounding = 0;
    FAILS(STEP(&optimizer, NULL), INVALID, "parameters is null");
    FAILS(qlk_optimizer_init(17, &optimizer), INVALID, "rule is 17");
    qlk_parameter bad[2] = {m.trained[0], m.trained[1]};
    bad[1].struct_size = 8;
    FAILS(STEP(&optimizer, bad), INVALID, "parameters[1].struct_size is 8");
    bad[1] = m.trained[1], bad[1].state_bits = 16;
    FAILS(STEP(&optimizer, bad), INVALID, "parameters[1].state_bits is 16");
    bad[1] = m.trained[1], bad[1].grad = m.trained[0].param;
    FAILS(STEP(&optimizer, bad), INVALID, "parameters[1].grad is 200 x 199");
    bad[1] = m.trained[1], bad[1].states[0] = NULL;
    FAILS(STEP(&optimizer, bad), INVALID, "parameters[1].states[0] is null");
    bad[1].states[0] = m.trained[0].states[1];
    FAILS(STEP(&optimizer, bad), INVALID, "overlaps parameters[");
    bad[1] = m.trained[1], bad[1].absmax[0] = NULL;
    FAILS(STEP(&optimizer, bad), INVALID, "parameters[1].absmax[0] is null");
#undef STEP
    release(workspace), release(own), release_model(&m);
}

/* What is wrong with a pager, and with what is saved. */
static void bad_paging(void) {
    qlk_pager *pager = NULL;
    qlk_pager_options options = {sizeof options, QLK_PAGER_AUTO, BUDGET, NULL}, bad = options;
    FAILS(qlk_pager_create(NULL, &options, &pager), INVALID, "context is null");
    FAILS(qlk_pager_create(context, NULL, &pager), INVALID, "options is null");
    FAILS(qlk_pager_create(context, &options, NULL), INVALID, "pager is null");
    bad.struct_size = 4;
    FAILS(qlk_pager_create(context, &bad, &pager), INVALID, "options.struct_size is 4");
    bad = options, bad.kind = 4;
    FAILS(qlk_pager_create(context, &bad, &pager), INVALID, "options.kind is 4");
    bad.kind = kind == QLK_DEVICE_CPU ? QLK_PAGER_STREAMED : QLK_PAGER_FILE;
    FAILS(qlk_pager_create(context, &bad, &pager), INVALID, "it must be Auto");
    bad = options, bad.budget--;
    FAILS(qlk_pager_create(context, &bad, &pager), INVALID, "budget is 262143 bytes");
    bad = options, bad.folder = "";
    FAILS(qlk_pager_create(context, &bad, &pager), INVALID, "options.folder is empty");
    bad.folder = "/nowhere/at/all";
    FAILS(qlk_pager_create(context, &bad, &pager), INVALID, "folder is ");
    CHECK(pager == NULL);
    OK(qlk_pager_create(context, &options, &pager));

    void *memory = NULL, *other = NULL;
    FAILS(qlk_pager_alloc(NULL, 1, &memory), INVALID, "pager is null");
    FAILS(qlk_pager_alloc(pager, 1, NULL), INVALID, "ptr is null");
    FAILS(qlk_pager_alloc(pager, 0, &memory), INVALID, "bytes is 0");
    FAILS(qlk_pager_alloc(pager, UINT64_MAX, &memory), QLK_STATUS_TOO_LARGE, "address space");
    FAILS(qlk_pager_alloc(pager, UINT64_C(1) << 60, &memory), QLK_STATUS_OUT_OF_RESOURCES, "bytes is 1152921504606846976");
    CHECK(memory == NULL);
    OK(qlk_pager_alloc(pager, sizeof(states), &memory));
    const char *outside = "they must lie in one allocation of this pager";
    char *end = (char *)memory + sizeof(states);
    FAILS(qlk_pager_prefetch(context, NULL, memory, 1, stream), INVALID, "pager is null");
    FAILS(qlk_pager_prefetch(context, pager, end - 1, 2, stream), INVALID, outside);
    FAILS(qlk_pager_evict(context, NULL, memory, 1, stream), INVALID, "pager is null");
    FAILS(qlk_pager_evict(context, pager, memory, UINT64_MAX, stream), INVALID, outside);
    FAILS(qlk_pager_evict(NULL, pager, memory, 1, stream), INVALID, "context is null");
    FAILS(qlk_pager_advise(NULL, memory, 1, QLK_ADVICE_STAY), INVALID, "pager is null");
    FAILS(qlk_pager_advise(pager, memory, 1, 3), INVALID, "advice is 3");
    FAILS(qlk_pager_advise(pager, end, 1, QLK_ADVICE_STAY), INVALID, outside);
    FAILS(qlk_pager_advise(pager, NULL, 0, QLK_ADVICE_STAY), INVALID, outside);
    FAILS(qlk_pager_free(NULL, memory), INVALID, "pager is null");
    FAILS(qlk_pager_free(pager, (char *)memory + 1), INVALID, "which is no allocation of this pager");
    qlk_pager_statistics statistics = {.struct_size = 8};
    FAILS(qlk_pager_get_statistics(NULL, &statistics), INVALID, "pager is null");
    FAILS(qlk_pager_get_statistics(pager, NULL), INVALID, "statistics is null");
    FAILS(qlk_pager_get_statistics(pager, &statistics), INVALID, "statistics.struct_size is 8");

    model m;
    initialize(&m, memory);
    qlk_optimizer optimizer = adamw();
    uint64_t size = 99;
    FAILS(qlk_optimizer_step_paged(context, NULL, &optimizer, m.trained, 2, NULL, NULL, 0, stream), INVALID, "pager is null");
    if (kind == QLK_DEVICE_CUDA) {
        FAILS(qlk_optimizer_step_paged(context, pager, &optimizer, m.trained, 2, NULL, NULL, 0, stream),
              QLK_STATUS_WORKSPACE_TOO_SMALL, "workspace_size is 0");
    }
    FAILS(qlk_optimizer_states_size(&optimizer, NULL, 2, &size), INVALID, "parameters is null");
    FAILS(qlk_optimizer_states_size(NULL, m.trained, 2, &size), INVALID, "optimizer is null");
    CHECK(size == 99);
    char *saved = save(pager, &optimizer, &m, &size);
    FAILS(qlk_optimizer_states_save(context, pager, &optimizer, m.trained, 2, saved, size - 1, stream), INVALID, "size is ");
    FAILS(qlk_optimizer_states_save(context, pager, &optimizer, m.trained, 2, NULL, size, stream), INVALID, "buffer is null");
    optimizer.step = 5;
    FAILS(qlk_optimizer_states_restore(context, pager, &optimizer, m.trained, 1, saved, size, stream), INVALID, "count is 1");
    FAILS(qlk_optimizer_states_restore(context, pager, &optimizer, m.trained, 2, saved, size - 1, stream), INVALID, "were saved");
    FAILS(qlk_optimizer_states_restore(context, pager, NULL, m.trained, 2, saved, size, stream), INVALID, "optimizer is null");
    FAILS(qlk_optimizer_states_restore(context, pager, &optimizer, m.trained, 2, NULL, size, stream), INVALID, "buffer is null");
    saved[size / 2] ^= 1;
    FAILS(qlk_optimizer_states_restore(context, pager, &optimizer, m.trained, 2, saved, size, stream), INVALID, "damaged");
    CHECK(optimizer.step == 5);
    /* States of the context's own memory, and a buffer among them. */
    states *own = own_states();
    m.trained[0].states[0] = own->values[0];
    if (kind == QLK_DEVICE_CPU) {
        FAILS(qlk_optimizer_states_save(context, pager, &optimizer, m.trained, 2, own, size, stream), INVALID,
              "buffer overlaps parameters[0].states[0]");
    } else if (!reads_host_memory()) {
        m.trained[1].states[1] = saved;
        FAILS(qlk_optimizer_states_save(context, pager, &optimizer, m.trained, 2, saved, size, stream), INVALID,
              "parameters[1].states[1] is at 0x");
    }
    release(own), release_model(&m), free(saved);

    qlk_context *elsewhere = NULL;
    if (kind == QLK_DEVICE_CUDA) {
        OK(qlk_context_create(QLK_DEVICE_CPU, 0, &elsewhere));
        FAILS(qlk_pager_evict(elsewhere, pager, memory, 1, NULL), INVALID, "context is of another device than the pager");
        OK(qlk_context_destroy(elsewhere));
    }
    OK(qlk_pager_alloc(pager, 1, &other));
    OK(qlk_pager_free(pager, other));
    OK(qlk_pager_free(pager, NULL));
    OK(qlk_pager_destroy(pager));
    OK(qlk_pager_destroy(NULL));
}

int main(int argc, char **argv) {
    create_context(argc, argv);
    if (kind == QLK_DEVICE_CPU) {
        paged(QLK_PAGER_AUTO, QLK_PAGER_FILE);
        paged(QLK_PAGER_FILE, QLK_PAGER_FILE);
    } else {
        paged(QLK_PAGER_AUTO, QLK_PAGER_STREAMED);
        paged(QLK_PAGER_STREAMED, QLK_PAGER_STREAMED);
        paged(QLK_PAGER_MANAGED, QLK_PAGER_MANAGED);
    }
    bad_steps();
    bad_paging();
    OK(qlk_context_destroy(context));
    puts("ok");
    return 0;
}
