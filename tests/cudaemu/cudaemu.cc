/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cudaemu.cc - fibers, barriers and warp collectives; the contract is in cudaemu.cuh.
 *
 * One queue holds the threads that may run.  A thread that waits gives the processor to the next of
 * the queue, or to the host when there is none; the last one to arrive at a barrier or a collective
 * puts all that waited there into the queue again, in the chosen order.
 */
#include "tests/cudaemu/cudaemu.cuh"

#include <stdio.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(DS_CUDAEMU_TSAN) /* this file itself is compiled without instruments */
#include <sanitizer/tsan_interface.h>
#define RELEASE(token) __tsan_release(token)
#define ACQUIRE(token) __tsan_acquire(token)
#else
#define RELEASE(token) ((void)(token))
#define ACQUIRE(token) ((void)(token))
#endif

#ifndef __x86_64__
#error "the emulation switches stacks on x86-64 only"
#endif

enum { READY, AT_BARRIER, AT_COLLECTIVE, DONE };
enum { MAX_THREADS = 1024, STACK_BYTES = 256 << 10 };

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
    const char *name;
    void (*run)(void *);
    void *arg, *shared;
    size_t shared_bytes;
    unsigned order, random;
} emu;

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

CUDAEMU_INTERNAL static void switch_to(cudaemu_thread *to, bool dying)
{
    cudaemu_thread *from = cudaemu_current;

    (void)dying;
    if (to == from)
        return;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(dying ? nullptr : &from->fake, to->stack, to->stack_bytes);
#endif
#if defined(DS_CUDAEMU_TSAN)
    __tsan_switch_to_fiber(to->tsan, 1); /* which orders nothing */
#endif
    cudaemu_current = to;
    cudaemu_swap(&from->sp, to->sp);
#if defined(__SANITIZE_ADDRESS__)
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

static void push(unsigned index)
{
    emu.thread[index].state = READY;
    emu.queue[(emu.first + emu.queued++) % MAX_THREADS] = index;
}

static cudaemu_thread *next()
{
    unsigned index;

    if (emu.queued == 0)
        return &emu.host;
    index = emu.queue[emu.first];
    emu.first = (emu.first + 1) % MAX_THREADS;
    emu.queued--;
    return &emu.thread[index];
}

/* All threads of that state whose bit is set, in the chosen order. */
static void push_all(unsigned begin, unsigned end, int state, unsigned mask)
{
    unsigned index[MAX_THREADS], n = 0;

    for (unsigned i = begin; i < end; i++) {
        if (emu.thread[i].state == state && (mask >> (i & 31) & 1))
            index[n++] = i;
    }
    for (unsigned i = 0; emu.order == 1 && i < n / 2; i++) {
        unsigned last = index[n - 1 - i];

        index[n - 1 - i] = index[i];
        index[i] = last;
    }
    for (unsigned i = n; emu.order > 1 && i > 1; i--) {
        unsigned j, last = index[i - 1];

        emu.random = emu.random * 1664525u + 1013904223u;
        j = (unsigned)(((uint64_t)emu.random * i) >> 32);
        index[i - 1] = index[j];
        index[j] = last;
    }
    for (unsigned i = 0; i < n; i++)
        push(index[i]);
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

/* Is everybody at the barrier who still runs? */
static void end_barrier()
{
    if (emu.alive == 0 || emu.waiting != emu.alive)
        return;
    emu.waiting = 0;
    emu.file = nullptr;
    emu.epoch++;
    check_warpgroups();
    push_all(0, emu.n, AT_BARRIER, ~0u);
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

    if (emu.file != nullptr && (emu.line != line || strcmp(emu.file, file) != 0)) {
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
    push_all(warp * 32, warp * 32 + 32, AT_COLLECTIVE, arrived);
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
    if (g->arrived != 0 && (g->line != line || strcmp(g->file, file) != 0)) {
        fprintf(stderr, "cudaemu: other lanes wait at %s:%d\n", g->file, g->line);
        die("a divergent warp collective", file, line);
    }
    g->mask = mask;
    g->arrived |= 1u << lane;
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

/* The first and last function of a fiber. */
CUDAEMU_INTERNAL static void entry()
{
    cudaemu_thread *c = cudaemu_current;
    unsigned warp = c->index >> 5;

#if defined(__SANITIZE_ADDRESS__)
    const void *stack;
    size_t bytes;

    __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
    if (emu.host.stack == nullptr) { /* the first fiber of a launch is entered from the host */
        emu.host.stack = (char *)(uintptr_t)stack;
        emu.host.stack_bytes = bytes;
    }
#endif
    ACQUIRE(&emu.begin);
    emu.run(emu.arg);
    RELEASE(&emu.end);
    emu.exited[warp] |= 1u << (c->index & 31);
    for (unsigned i = 0; i < 32; i++)
        end_collective(warp, &emu.group[warp][i]);
    c->state = DONE;
    emu.alive--;
    end_barrier();
    switch_to(next(), true);
    __builtin_unreachable();
}

static void prepare(unsigned index)
{
    cudaemu_thread *t = &emu.thread[index];
    unsigned wide = cudaemu_block_dim.x, high = cudaemu_block_dim.y;
    void **sp;

    if (t->stack == nullptr) {
        void *stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (stack == MAP_FAILED) {
            perror("cudaemu: a stack");
            abort();
        }
        t->stack = (char *)stack;
        t->stack_bytes = STACK_BYTES;
#if defined(DS_CUDAEMU_TSAN)
        t->tsan = __tsan_create_fiber(0);
#endif
    }
    t->index = index;
    t->tid = {index % wide, index / wide % high, index / wide / high};
    t->state = DONE;
    t->fake = nullptr;
    t->copies = t->groups = 0;
    t->unpublished = t->begun = false;
    t->sums = t->reads = t->products = t->product_groups = 0;
    /* Stacks at one offset of their pages would all fall into the same sets of the cache. */
    sp = (void **)(void *)(t->stack + STACK_BYTES - 64 - (index * 320u & 16383u));
    *--sp = nullptr;
    *--sp = (void *)entry;
    for (int i = 0; i < 6; i++)
        *--sp = nullptr;
    t->sp = sp;
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
    memset(emu.group, 0, sizeof(emu.group));
    memset(emu.exited, 0, sizeof(emu.exited));
    cudaemu_current = &emu.host;
#if defined(DS_CUDAEMU_TSAN)
    emu.host.tsan = __tsan_get_current_fiber();
#endif
    push_all(0, emu.n, DONE, ~0u);
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
