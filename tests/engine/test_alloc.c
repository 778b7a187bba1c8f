/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_alloc - the step loop allocates nothing: two whole ranks train in threads, and every call of
 * malloc, calloc and realloc that comes from the project's own code is counted between the second
 * metric and the last.
 *
 * The program's own definitions stand before libc's; calls made inside libraries (oneDNN, libgomp)
 * return to their text, not to ours.  A sanitizer brings its own allocator: then there is no test.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/wire.h"
#include "runtime/spec.h"
#include "runtime/train.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t bytes);
extern const char __executable_start[], etext[];

static atomic_bool armed;
static atomic_uint counted;

static void count(const void *caller)
{
    const char *at = caller;

    if (atomic_load_explicit(&armed, memory_order_relaxed) && at >= __executable_start &&
        at < etext)
        atomic_fetch_add(&counted, 1);
}

void *malloc(size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t size)
{
    count(__builtin_return_address(0));
    return __libc_calloc(n, size);
}

void *realloc(void *memory, size_t bytes)
{
    count(__builtin_return_address(0));
    return __libc_realloc(memory, bytes);
}

enum { WORLD = 2, STEPS = 8 };

static const char job_text[] =
    "name: t\nrun_dir: unused\n"
    "model: {arch: gpt2, layers: 2, hidden: 32, heads: 4, ffn: 64, vocab: 256, context: 16}\n"
    "data: {train: [README.md]}\n"
    "train: {steps: 8, global_batch: 8, micro_batch: 2, sequence: 16}\n"
    "schedule: {kind: constant}\ncheckpoint: {every: 0, resume: never}\n"
    "launch: {device: cpu, threads: 1}\n";

struct seat {
    struct ds_job job;
    struct ds_train_args args;
    int agent; /* the other end of the link */
    int rc, code;
    struct ds_error err;
};

static void *rank_main(void *arg)
{
    struct seat *seat = arg;

    seat->rc = ds_train(&seat->args, &seat->code, &seat->err);
    ds_link_close(seat->args.link);
    return NULL;
}

/* Count rank 0's metrics as they come; nothing here allocates either. */
static unsigned watch_metrics(int fd)
{
    static unsigned char bytes[1 << 16];
    size_t have = 0, used;
    unsigned metrics = 0;
    struct ds_frame frame;
    ssize_t got;

    while ((got = recv(fd, bytes + have, sizeof(bytes) - have, 0)) > 0) {
        have += (size_t)got;
        while (ds_wire_decode(bytes, have, &frame, &used, NULL) > 0) {
            if (frame.type == DS_WIRE_METRIC)
                atomic_store(&armed, ++metrics >= 2 && metrics < STEPS);
            memmove(bytes, bytes + used, have - used);
            have -= used;
        }
    }
    return metrics;
}

static void prepare(struct seat *seat, unsigned rank, unsigned cores, int shm)
{
    struct ds_buf frame, spec;
    const struct ds_frame first = {.type = DS_WIRE_SPEC, .payload = "x", .len = 1};
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ds_buf_init(&frame, 4096);
    ds_buf_init(&spec, 4096);
    cr_assert_eq(ds_wire_encode(&frame, &first), 0);
    cr_assert_eq(write(pair[0], frame.data, frame.len), (ssize_t)frame.len);
    ds_job_init(&seat->job);
    cr_assert_eq(ds_job_parse(&seat->job, "job", job_text, strlen(job_text), NULL, 0, &seat->err),
                 0, "%s", seat->err.text);
    seat->args = (struct ds_train_args){.job = &seat->job,
                                        .run_dir = "/nonexistent",
                                        .rank = rank,
                                        .world = WORLD,
                                        .local_world = WORLD,
                                        .threads = 1,
                                        .cores = cores,
                                        .shm_fd = dup(shm)};
    cr_assert_eq(ds_link_open(&seat->args.link, pair[1], rank, &spec, NULL), 0);
    seat->agent = pair[0];
    ds_buf_release(&frame);
    ds_buf_release(&spec);
}

static void train_and_count(unsigned cores)
{
    struct seat seat[WORLD] = {0};
    pthread_t thread[WORLD];
    int shm = memfd_create("test", MFD_CLOEXEC);
    void *(*volatile take)(size_t bytes) = malloc; /* not to be optimised away */
    void *proof;

    for (unsigned i = 0; i < WORLD; i++)
        prepare(&seat[i], i, cores, shm);
    for (unsigned i = 0; i < WORLD; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, rank_main, &seat[i]), 0);
    cr_assert_eq(watch_metrics(seat[0].agent), STEPS);
    for (unsigned i = 0; i < WORLD; i++) {
        cr_assert_eq(pthread_join(thread[i], NULL), 0);
        cr_assert_eq(seat[i].rc, 0, "rank %u: %s", i, seat[i].err.text);
        ds_job_release(&seat[i].job);
        (void)close(seat[i].agent);
    }
    (void)close(shm);
    cr_assert_eq(atomic_load(&counted), 0, "%u allocations in the step loop",
                 atomic_load(&counted));
    atomic_store(&armed, true); /* and the counter does count */
    proof = take(1);
    atomic_store(&armed, false);
    free(proof);
    cr_assert_eq(atomic_exchange(&counted, 0), 1);
}

Test(alloc, the_step_loop_allocates_nothing)
{
    train_and_count(1);
    train_and_count(2); /* the reduce queue has its thread */
}

#else

Test(alloc, the_step_loop_allocates_nothing, .disabled = true)
{
}

#endif
