/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cudaemu.cc - fibers, barriers and warp collectives; the contract is in cudaemu.cuh.
 *
 * One queue holds the threads that may run.  A thread that waits gives the processor to the next of
 * the queue, or to the host when there is none; the last one to arrive at a barrier or a collective
 * puts all that waited there into the queue again, in the chosen order.  A warp that has met goes on
 * before the others, so it is a whole barrier ahead of them or behind: forward and backward, any two
 * accesses without a barrier between them come in both orders.  By chance it goes on after them,
 * too, and warps keep step.
 *
 * A thread gets its stack when it begins, and one that ends leaves it to the next that begins: where
 * nobody waits for anybody, a block runs on one stack.
 */
#include "tests/cudaemu/cudaemu.cuh"

#include <stdio.h>
#include <sys/mman.h>

/* This file itself is compiled without instruments. */
#if defined(DS_CUDAEMU_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(DS_CUDAEMU_TSAN)
#include <sanitizer/tsan_interface.h>
#define RELEASE(token) __tsan_release(token)
#define ACQUIRE(token) __tsan_acquire(token)
#else
#define RELEASE(token) ((void)(token))
#define ACQUIRE(token) ((void)(token))
#endif

#if defined(DS_CUDAEMU_TSAN)
enum { INHERIT = 0 }; /* a stack of one thread after the other would be a race */
#else
enum { INHERIT = 1 };
#endif
enum { READY, AT_BARRIER, AT_COLLECTIVE, DONE };
enum { MAX_THREADS = 1024, STACK_BYTES = 256 << 10, STRIDE_BYTES = STACK_BYTES + (4 << 10) };

/* A warp collective under way; one per lowest lane of its mask. */
struct group {
    unsigned mask, arrived;
    const char *file;
    int line;
    void (*all)(void *const *lanes);
    unsigned epoch;
    char token[2]; /* of even and odd epochs: what lanes do after one must not leak into it */
};

static struct {
    cudaemu_thread thread[MAX_THREADS], host;
    unsigned n, alive;
    unsigned waiting; /* at the barrier */
    const char *file; /* of that barrier */
    int line;
    unsigned epoch; /* of the barrier */
    char token[2], begin, end;
    unsigned queue[MAX_THREADS], first, queued;
    struct group group[MAX_THREADS / 32][32];
    unsigned exited[MAX_THREADS / 32]; /* lanes */
    unsigned open[MAX_THREADS / 32];   /* groups at which lanes wait */
    char *stacks;
    unsigned taken; /* of them by the block so far */
    const char *name;
    void (*run)(void *);
    void *arg, *shared;
    size_t shared_bytes;
    unsigned order, random;
} emu;

static struct cudaemu_async async[MAX_THREADS];

cudaemu_thread *cudaemu_current;
uint3 cudaemu_block;
dim3 cudaemu_block_dim, cudaemu_grid_dim;
cudaError_t cudaemu_last;

void cudaemu_order(unsigned order)
{
    emu.order = emu.random = order;
}

void *cudaemu_shared()
{
    return emu.shared;
}

size_t cudaemu_shared_bytes()
{
    return emu.shared_bytes;
}

bool cudaemu_unpublished()
{
    for (unsigned i = 0; i < emu.n; i++) {
        if (emu.thread[i].unpublished)
            return true;
    }
    return false;
}

/* Keep what a callee must keep on this stack, and go on with the other one. */
extern "C" void cudaemu_swap(void **save, void *to);
#if defined(__x86_64__)
asm(".text\n"
    ".p2align 4\n"
    ".globl cudaemu_swap\n"
    ".hidden cudaemu_swap\n"
    ".type cudaemu_swap,@function\n"
    "cudaemu_swap:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp,(%rdi)\n"
    "    movq %rsi,%rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size cudaemu_swap,.-cudaemu_swap\n");
/* What is on it of one that has not begun: rbp .. r15, where to go on, and a place that is aligned
 * as behind a call. */
enum { WHERE = 6, FRAME = 8 };
#elif defined(__aarch64__)
asm(".text\n"
    ".p2align 4\n"
    ".globl cudaemu_swap\n"
    ".hidden cudaemu_swap\n"
    ".type cudaemu_swap,%function\n"
    "cudaemu_swap:\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp]\n"
    "    stp x21, x22, [sp, #16]\n"
    "    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n"
    "    stp x27, x28, [sp, #64]\n"
    "    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n"
    "    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n"
    "    stp d14, d15, [sp, #144]\n"
    "    mov x2, sp\n"
    "    str x2, [x0]\n"
    "    mov sp, x1\n"
    "    ldp x19, x20, [sp]\n"
    "    ldp x21, x22, [sp, #16]\n"
    "    ldp x23, x24, [sp, #32]\n"
    "    ldp x25, x26, [sp, #48]\n"
    "    ldp x27, x28, [sp, #64]\n"
    "    ldp x29, x30, [sp, #80]\n"
    "    ldp d8, d9, [sp, #96]\n"
    "    ldp d10, d11, [sp, #112]\n"
    "    ldp d12, d13, [sp, #128]\n"
    "    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    ret\n"
    ".size cudaemu_swap,.-cudaemu_swap\n");
/* x19 .. x29, x30, which is where to go on, d8 .. d15. */
enum { WHERE = 11, FRAME = 20 };
#else
#error "the emulation switches stacks on x86-64 and aarch64 only"
#endif

CUDAEMU_INTERNAL static void switch_to(cudaemu_thread *to, bool dying)
{
    cudaemu_thread *from = cudaemu_current;

    (void)dying;
    if (to == from)
        return;
#if defined(DS_CUDAEMU_ASAN)
    __sanitizer_start_switch_fiber(dying ? nullptr : &from->fake, to->stack, to->stack_bytes);
#endif
#if defined(DS_CUDAEMU_TSAN)
    __tsan_switch_to_fiber(to->tsan, 1); /* which orders nothing */
#endif
    cudaemu_current = to;
    cudaemu_swap(&from->sp, to->sp);
#if defined(DS_CUDAEMU_ASAN)
    __sanitizer_finish_switch_fiber(from->fake, nullptr, nullptr);
#endif
}

[[noreturn]] static void die(const char *what, const char *file, int line)
{
    fprintf(stderr, "cudaemu: %s, block (%u,%u,%u), thread %u: %s at %s:%d\n", emu.name,
            cudaemu_block.x, cudaemu_block.y, cudaemu_block.z, cudaemu_current->index, what, file,
            line);
    abort();
}

/* The next to run, which may have no stack yet. */
static cudaemu_thread *take()
{
    unsigned index;

    if (emu.queued == 0)
        return &emu.host;
    index = emu.queue[emu.first++ % MAX_THREADS];
    emu.queued--;
    return &emu.thread[index];
}

static void lay_stack(cudaemu_thread *t);

static cudaemu_thread *next()
{
    cudaemu_thread *to = take();

    if (to->sp == nullptr)
        lay_stack(to);
    return to;
}

static unsigned random_below(unsigned n)
{
    emu.random = emu.random * 1664525u + 1013904223u;
    return (unsigned)(((uint64_t)emu.random * n) >> 32);
}

/* All threads of that state whose bit is set, in the chosen order, before or behind those that may
 * run already. */
static void push_all(unsigned begin, unsigned end, int state, unsigned mask, bool before)
{
    unsigned index[MAX_THREADS], n = 0, at = emu.first + emu.queued;

    for (unsigned i = begin; i < end; i++) {
        if (emu.thread[i].state == state && (mask >> (i & 31) & 1)) {
            emu.thread[i].state = READY;
            index[n++] = i;
        }
    }
    for (unsigned i = n; emu.order > 1 && i > 1; i--) {
        unsigned j = random_below(i), last = index[i - 1];

        index[i - 1] = index[j];
        index[j] = last;
    }
    if (before)
        at = emu.first -= n;
    emu.queued += n;
    for (unsigned i = 0; i < n; i++)
        emu.queue[(at + i) % MAX_THREADS] = index[emu.order == 1 ? n - 1 - i : i];
}

/* Products of a warpgroup are queued by all of it. */
static void check_warpgroups()
{
    for (unsigned i = 0; i < emu.n; i++) {
        const cudaemu_thread *t = &emu.thread[i];

        if (t->products != emu.thread[i / 128 * 128].products)
            die("warps of a warpgroup have queued other numbers of products", t->file, t->line);
    }
}

static bool same_place(const char *file, int line, const char *other, int other_line)
{
    return line == other_line && (file == other || strcmp(file, other) == 0);
}

/* Is everybody at the barrier who still runs? */
static void end_barrier()
{
    if (emu.alive == 0 || emu.waiting != emu.alive)
        return;
    emu.waiting = 0;
    emu.file = nullptr;
    emu.epoch++;
    check_warpgroups();
    push_all(0, emu.n, AT_BARRIER, ~0u, false);
}

static void wait_in(int state, const char *file, int line)
{
    cudaemu_current->state = state;
    cudaemu_current->file = file;
    cudaemu_current->line = line;
}

void cudaemu_barrier(const char *file, int line)
{
    char *token = &emu.token[emu.epoch % 2];

    if (emu.file != nullptr && !same_place(emu.file, emu.line, file, line)) {
        fprintf(stderr, "cudaemu: other threads wait at %s:%d\n", emu.file, emu.line);
        die("divergent __syncthreads", file, line);
    }
    emu.file = file;
    emu.line = line;
    emu.waiting++;
    wait_in(AT_BARRIER, file, line);
    RELEASE(token);
    end_barrier();
    switch_to(next(), false);
    ACQUIRE(token);
}

/* Have all lanes of the mask arrived?  Those that have ended do not count. */
static void end_collective(unsigned warp, struct group *g)
{
    cudaemu_thread *lanes = &emu.thread[warp * 32];
    unsigned arrived = g->arrived;

    if (arrived == 0 || (arrived | emu.exited[warp]) != (g->mask | emu.exited[warp]))
        return;
    for (unsigned i = 0; i < 32; i++) {
        unsigned from = lanes[i].source & 31;

        if (arrived >> i & 1) /* of a lane that is not there nothing good comes */
            lanes[i].result = arrived >> from & 1 ? lanes[from].value : ~UINT64_C(0);
    }
    if (g->all != nullptr) {
        void *given[32];

        if (arrived != ~0u)
            die("a collective of the whole warp after a lane has ended", g->file, g->line);
        for (unsigned i = 0; i < 32; i++)
            given[i] = lanes[i].given;
        g->all(given);
    }
    g->arrived = 0;
    g->epoch++;
    emu.open[warp] &= ~(1u << (g - emu.group[warp]));
    push_all(warp * 32, warp * 32 + 32, AT_COLLECTIVE, arrived,
             emu.order < 2 || random_below(2) == 0);
}

static void meet(unsigned mask, void (*all)(void *const *lanes), const char *file, int line)
{
    cudaemu_thread *c = cudaemu_current;
    unsigned lane = c->index & 31, warp = c->index >> 5, lanes = emu.n - warp * 32;
    struct group *g;
    char *token;

    mask &= lanes >= 32 ? ~0u : (1u << lanes) - 1;
    if ((mask >> lane & 1) == 0)
        die("the calling lane is not in its own mask", file, line);
    g = &emu.group[warp][__builtin_ctz(mask)];
    if (g->arrived != 0 && g->mask != mask)
        die("a warp collective with mismatched masks", file, line);
    if (g->arrived != 0 && !same_place(g->file, g->line, file, line)) {
        fprintf(stderr, "cudaemu: other lanes wait at %s:%d\n", g->file, g->line);
        die("a divergent warp collective", file, line);
    }
    g->mask = mask;
    g->arrived |= 1u << lane;
    emu.open[warp] |= 1u << (g - emu.group[warp]);
    g->file = file;
    g->line = line;
    g->all = all;
    token = &g->token[g->epoch % 2];
    wait_in(AT_COLLECTIVE, file, line);
    RELEASE(token);
    end_collective(warp, g);
    switch_to(next(), false);
    ACQUIRE(token);
}

uint64_t cudaemu_collective(unsigned mask, uint64_t value, unsigned source, const char *file,
                            int line)
{
    cudaemu_thread *c = cudaemu_current;

    c->value = value;
    c->source = source;
    meet(mask, nullptr, file, line);
    return c->result;
}

void cudaemu_together(void *given, void (*all)(void *const *lanes), const char *file, int line)
{
    cudaemu_current->given = given;
    meet(~0u, all, file, line);
}

struct vote {
    bool holds;
    unsigned all;
};

CUDAEMU_INTERNAL static void count_votes(void *const *lanes)
{
    unsigned all = 0;

    for (unsigned lane = 0; lane < 32; lane++)
        all |= (unsigned)((const struct vote *)lanes[lane])->holds << lane;
    for (unsigned lane = 0; lane < 32; lane++)
        ((struct vote *)lanes[lane])->all = all;
}

unsigned cudaemu_ballot(unsigned mask, bool holds, const char *file, int line)
{
    struct vote mine = {holds, 0};

    if (mask != ~0u)
        die("a vote of less than a warp", file, line);
    cudaemu_together(&mine, count_votes, file, line);
    return mine.all;
}

/* What others may have waited for is that this one ends. */
static void end_thread(cudaemu_thread *c)
{
    unsigned warp = c->index >> 5;

    RELEASE(&emu.end);
    emu.exited[warp] |= 1u << (c->index & 31);
    for (unsigned open = emu.open[warp]; open != 0; open &= open - 1)
        end_collective(warp, &emu.group[warp][__builtin_ctz(open)]);
    c->state = DONE;
    emu.alive--;
    end_barrier();
}

/* The first and last function of a fiber. */
CUDAEMU_INTERNAL static void entry()
{
    cudaemu_thread *to;

#if defined(DS_CUDAEMU_ASAN)
    const void *stack;
    size_t bytes;

    __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
    if (emu.host.stack == nullptr) { /* the first fiber of a launch is entered from the host */
        emu.host.stack = (char *)(uintptr_t)stack;
        emu.host.stack_bytes = bytes;
    }
#endif
    for (;;) {
        ACQUIRE(&emu.begin);
        emu.run(emu.arg);
        end_thread(cudaemu_current);
        to = INHERIT ? take() : next();
        if (to->sp != nullptr)
            break;
        to->sp = to->stack = cudaemu_current->stack;
        cudaemu_current = to;
    }
    switch_to(to, true);
    __builtin_unreachable();
}

/* The tops of stacks fall into different sets of the cache and, by STRIDE_BYTES, of what translates
 * addresses: else every switch would miss both. */
static char *stack_of(unsigned i)
{
    if (emu.stacks == nullptr) {
        void *all = mmap(nullptr, (size_t)MAX_THREADS * STRIDE_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (all == MAP_FAILED) {
            perror("cudaemu: stacks");
            abort();
        }
        emu.stacks = (char *)all;
    }
    return emu.stacks + (size_t)i * STRIDE_BYTES;
}

/* Lay out what cudaemu_swap() takes from the stack of a thread that has not begun. */
static void lay_stack(cudaemu_thread *t)
{
    unsigned i = INHERIT ? emu.taken++ : t->index;
    void **sp;

    t->stack = stack_of(i);
    sp = (void **)(void *)(t->stack + STACK_BYTES - 64 - (i * 320u & 4095u));
    for (int k = 0; k < FRAME; k++)
        *--sp = nullptr;
    sp[WHERE] = (void *)entry;
    t->sp = sp;
}

static void prepare(unsigned index)
{
    cudaemu_thread *t = &emu.thread[index];

    t->state = DONE;
    t->sp = nullptr;
    t->fake = nullptr;
    t->copies = t->groups = 0;
    t->unpublished = t->begun = false;
    t->sums = t->reads = t->products = t->product_groups = 0;
}

static void name_threads()
{
    unsigned wide = cudaemu_block_dim.x, high = cudaemu_block_dim.y;

    for (unsigned i = 0; i < emu.n; i++) {
        cudaemu_thread *t = &emu.thread[i];

        t->index = i;
        t->tid = {i % wide, i / wide % high, i / wide / high};
        t->async = &async[i];
        t->stack_bytes = STACK_BYTES;
#if defined(DS_CUDAEMU_TSAN)
        if (t->tsan == nullptr) /* by the host: who makes it has been before it */
            t->tsan = __tsan_create_fiber(0);
#endif
    }
}

static void report_deadlock()
{
    fprintf(stderr, "cudaemu: %s, block (%u,%u,%u): deadlock, %u of %u threads never end\n",
            emu.name, cudaemu_block.x, cudaemu_block.y, cudaemu_block.z, emu.alive, emu.n);
    for (unsigned i = 0, told = 0; i < emu.n && told < 8; i++) {
        const cudaemu_thread *t = &emu.thread[i];

        if (t->state == DONE)
            continue;
        fprintf(stderr, "cudaemu:   thread %u waits in a %s at %s:%d\n", i,
                t->state == AT_BARRIER ? "barrier" : "warp collective", t->file, t->line);
        told++;
    }
    abort();
}

CUDAEMU_INTERNAL static void run_block()
{
    for (unsigned i = 0; i < emu.n; i++)
        prepare(i);
    emu.alive = emu.n;
    emu.waiting = emu.first = emu.queued = 0;
    emu.file = nullptr;
    emu.taken = 0;
    memset(emu.exited, 0, sizeof(emu.exited));
    cudaemu_current = &emu.host;
#if defined(DS_CUDAEMU_TSAN)
    emu.host.tsan = __tsan_get_current_fiber();
#endif
    push_all(0, emu.n, DONE, ~0u, false);
    RELEASE(&emu.begin);
    while (emu.queued > 0)
        switch_to(next(), false);
    ACQUIRE(&emu.end);
    if (emu.alive > 0)
        report_deadlock();
}

void cudaemu_launch(dim3 grid, dim3 block, size_t shared_bytes, const char *name,
                    void (*run)(void *), void *arg)
{
    uint64_t threads = (uint64_t)block.x * block.y * block.z;

    if (threads == 0 || threads > MAX_THREADS || block.z > 64 || grid.x == 0 || grid.y == 0 ||
        grid.z == 0 || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535 ||
        shared_bytes > CUDAEMU_SHARED) {
        cudaemu_last = cudaErrorInvalidConfiguration;
        return;
    }
    /* Of the exact size, so that the first byte behind it is seen. */
    if (shared_bytes > 0 && posix_memalign(&emu.shared, 1024, shared_bytes) != 0) {
        cudaemu_last = cudaErrorMemoryAllocation;
        return;
    }
    emu.shared_bytes = shared_bytes;
    emu.n = (unsigned)threads;
    emu.name = name;
    emu.run = run;
    emu.arg = arg;
    emu.host.stack = nullptr;
    cudaemu_block_dim = block;
    cudaemu_grid_dim = grid;
    name_threads();
    for (unsigned z = 0; z < grid.z; z++) {
        for (unsigned y = 0; y < grid.y; y++) {
            for (unsigned x = 0; x < grid.x; x++) {
                cudaemu_block = {x, y, z};
                if (shared_bytes > 0)
                    memset(emu.shared, 0xff, shared_bytes);
                run_block();
            }
        }
    }
    free(emu.shared);
    emu.shared = nullptr;
}
