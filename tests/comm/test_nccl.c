/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_nccl.c - the backend `nccl` and its watchdog, on doubles of CUDA and NCCL (tests/fakes/): sums, groups,
 * and each way in which NCCL fails.  Ranks are processes, for a process has one CUDA runtime; each has a thread
 * that watches, one that connects and one that a stream works in.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <time.h>

#undef RANKS_AS_THREADS
#include "kernels/backend.h"
#include "kernels/dtype.h"
#include "runtime/comm/nccl.h"
#include "tests/comm/ranks.h"

enum { ELEMS = 1000, BYTES = ELEMS * sizeof(float), PATIENCE_MS = 2000, NOTE = 64 };

/* --- a device with one stream ----------------------------------------------------------------- */

struct one_stream {
    struct ds_stream base;
    cudaStream_t handle;
};

static void *handle_of(struct ds_stream *stream)
{
    return ((struct one_stream *)stream)->handle;
}

static int copy_in(struct ds_stream *in, enum ds_copy_way way, void *to, const void *from,
                   size_t bytes, struct ds_error *err)
{
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, handle_of(in));

    (void)way;
    return error == cudaSuccess ? 0 : ds_fail(err, EIO, "cannot copy");
}

static const struct ds_backend_queues queues = {.handle = handle_of, .copy = copy_in};
static int allocate(struct ds_device *of, size_t bytes, void **out, struct ds_error *err)
{
    (void)of;
    return cudaMalloc(out, bytes) == cudaSuccess ? 0 : ds_fail(err, ENOMEM, "no memory");
}

static void give_back(struct ds_device *of, void *memory, size_t bytes)
{
    (void)of;
    (void)bytes;
    (void)cudaFree(memory);
}

static const struct ds_backend backend = {
    .name = "one stream", .queues = &queues, .alloc = allocate, .free = give_back};
static struct ds_device device = {.backend = &backend};
static struct one_stream stream = {.base = {.device = &device}};

/* --- the board -------------------------------------------------------------------------------- */

static struct board { /* shared by the ranks */
    _Atomic unsigned told[RANKS_MAX];
    unsigned char note[RANKS_MAX][NOTE];
    _Atomic pid_t pid[RANKS_MAX];
    atomic_bool over; /* the job ends: nobody is answered */
} * board;
static unsigned my_rank;

static int tell(void *user, const void *note, size_t bytes)
{
    (void)user;
    if (bytes > NOTE)
        return -EINVAL;
    memcpy(board->note[my_rank], note, bytes);
    atomic_store(&board->told[my_rank], 1);
    return 0;
}

static int ask(void *user, unsigned rank, void *note, size_t bytes, unsigned timeout_ms)
{
    const struct timespec nap = {.tv_nsec = 1000000};

    (void)user;
    for (unsigned ms = 0; atomic_load(&board->told[rank]) == 0; ms++) {
        if (atomic_load(&board->over))
            return -ECANCELED;
        if (ms >= timeout_ms)
            return -ETIMEDOUT;
        (void)nanosleep(&nap, NULL);
    }
    memcpy(note, board->note[rank], bytes);
    return 0;
}

/* --- a rank ----------------------------------------------------------------------------------- */

static int open_nccl(const struct ranks *setup, unsigned rank, struct ds_comm *control,
                     struct ds_comm **comm, struct ds_error *err)
{
    static const struct ds_comm_board here = {.tell = tell, .ask = ask};
    const struct ds_comm_args args = {.backend = "nccl",
                                      .rank = rank,
                                      .world = setup->world,
                                      .shm_fd = -1,
                                      .arena_bytes = BYTES,
                                      .timeout_ms = PATIENCE_MS,
                                      .device = &device,
                                      .control = control,
                                      .board = &here};
    char name[16];
    int rc;

    my_rank = rank;
    (void)snprintf(name, sizeof(name), "%u", rank);
    (void)setenv("RANK", name, 1);
    (void)setenv("NCCL_HOSTID", name, 0); /* all are on one device */
    atomic_store(&board->pid[rank], getpid());
    if (cudaStreamCreateWithPriority(&stream.handle, 0, 0) != cudaSuccess)
        return -EIO;
    ds_comm_add(&ds_comm_backend_nccl);
    rc = ds_comm_open(comm, &args, err);
    if (rc == 0)
        ds_comm_use_stream(*comm, &stream.base);
    return rc;
}

static int put(float *to, const float *from)
{
    return (int)cudaMemcpyAsync(to, from, BYTES, cudaMemcpyHostToDevice, stream.handle);
}

static int get(float *to, const float *from)
{
    return (int)cudaMemcpyAsync(to, from, BYTES, cudaMemcpyDeviceToHost, stream.handle);
}

static int close_nccl(struct ds_comm *comm, int line)
{
    (void)cudaStreamSynchronize(stream.handle);
    ds_comm_close(comm);
    (void)cudaStreamDestroy(stream.handle);
    return line;
}

static int sums_and_shards(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    float numbers[ELEMS], *arena = ds_comm_arena(comm);
    struct ds_error err = {0};
    double sum = rank;

    for (size_t i = 0; i < ELEMS; i++)
        numbers[i] = (float)(i + rank);
    for (unsigned round = 0; round < 20; round++) {
        EXPECT(put(arena, numbers) == 0);
        EXPECT_OK(ds_comm_all_reduce_f32(comm, arena, ELEMS, &err), &err);
        EXPECT(get(numbers, arena) == 0);
        for (size_t i = 0; i < ELEMS; i++) {
            EXPECT(numbers[i] == (float)(setup->world * i + setup->world * (setup->world - 1) / 2));
            numbers[i] = (float)(i + rank);
        }
    }
    EXPECT(put(arena, numbers) == 0);
    EXPECT_OK(ds_comm_reduce_scatter_f32(comm, arena, ELEMS, &err), &err);
    EXPECT_OK(ds_comm_all_gather(comm, arena, BYTES, &err), &err);
    EXPECT(get(numbers, arena) == 0 && numbers[ELEMS - 1] == 2 * (ELEMS - 1) + 1);
    EXPECT_OK(ds_comm_all_reduce_f64(comm, &sum, 1, &err), &err); /* of the host's memory */
    EXPECT(sum == 1.0);
    return 0;
}

/* Numbers that fp16 has, and sums that it has; twice its largest one is infinite. */
static int sums_of_f16(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    enum { HALVES = BYTES / sizeof(ds_f16) };
    float numbers[ELEMS], *arena = ds_comm_arena(comm);
    ds_f16 *low = (ds_f16 *)(void *)numbers;
    struct ds_error err = {0};

    (void)setup;
    for (size_t i = 0; i < HALVES; i++)
        low[i] = ds_f16_from_f32(i % 64 == 7 ? 65504.0f : (float)(2 * i % 512 + rank));
    EXPECT(put(arena, numbers) == 0);
    EXPECT_OK(ds_comm_all_reduce_f16(comm, (uint16_t *)(void *)arena, HALVES, &err), &err);
    EXPECT(get(numbers, arena) == 0);
    for (size_t i = 0; i < HALVES; i++)
        EXPECT(ds_f16_to_f32(low[i]) ==
               (i % 64 == 7 ? (float)INFINITY : (float)(2 * (2 * i % 512) + 1)));
    return 0;
}

/* Numbers that bf16 has, and sums that it has. */
static int sums_of_bf16(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    enum { HALVES = BYTES / sizeof(ds_bf16) };
    size_t shard = HALVES / setup->world;
    float numbers[ELEMS], *arena = ds_comm_arena(comm);
    ds_bf16 *low = (ds_bf16 *)(void *)numbers;
    struct ds_error err = {0};

    for (unsigned scattered = 0; scattered < 2; scattered++) {
        size_t from = scattered ? rank * shard : 0, end = scattered ? from + shard : HALVES;

        for (size_t i = 0; i < HALVES; i++)
            low[i] = ds_bf16_from_f32((float)(i % 64 + rank));
        EXPECT(put(arena, numbers) == 0);
        EXPECT_OK((scattered ? ds_comm_reduce_scatter_bf16 : ds_comm_all_reduce_bf16)(
                      comm, (uint16_t *)(void *)arena, HALVES, &err),
                  &err);
        EXPECT(get(numbers, arena) == 0);
        for (size_t i = from; i < end; i++)
            EXPECT(ds_bf16_to_f32(low[i]) == (float)(2 * (i % 64) + 1));
    }
    return 0;
}

/* --- parts ------------------------------------------------------------------------------------ */

enum { LARGE = 300001, SWAPS = 10 };

/* Parts of any number of bytes, which lie in a buffer of their own; `job` is this rank's number there. */
static int swap_bytes(const struct ranks *setup, unsigned rank, struct ds_comm *comm, size_t part)
{
    const unsigned world = ds_comm_world(comm), me = ds_comm_rank(comm);
    const size_t bytes = world * part;
    unsigned char *host = malloc(2 * bytes), *buf = NULL;
    struct ds_error err = {0};

    EXPECT(host != NULL && cudaMalloc((void **)&buf, 2 * bytes) == cudaSuccess);
    for (unsigned peer = 0; peer < world; peer++)
        for (size_t i = 0; i < part; i++)
            host[peer * part + i] = (unsigned char)(i * 7 + i / 251 + me * 16 + peer);
    EXPECT(cudaMemcpyAsync(buf, host, bytes, cudaMemcpyHostToDevice, stream.handle) == cudaSuccess);
    EXPECT_OK(ds_comm_all_to_all(comm, buf, buf + bytes, bytes, &err), &err);
    EXPECT(cudaMemcpyAsync(host, buf + bytes, bytes, cudaMemcpyDeviceToHost, stream.handle) ==
           cudaSuccess);
    EXPECT(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    for (unsigned peer = 0; peer < world; peer++)
        for (size_t i = 0; i < part; i++)
            EXPECT(host[peer * part + i] == (unsigned char)(i * 7 + i / 251 + peer * 16 + me));
    EXPECT(cudaFree(buf) == cudaSuccess);
    free(host);
    return 0;
}

/* In the arena, one behind the other and back, without waiting for the stream. */
static int swap_often(const struct ranks *setup, unsigned rank, struct ds_comm *comm)
{
    const unsigned world = ds_comm_world(comm), me = ds_comm_rank(comm);
    float numbers[ELEMS], *arena = ds_comm_arena(comm);
    const size_t n = ELEMS / 2 / world * world, part = n / world;
    struct ds_error err = {0};

    for (size_t i = 0; i < n; i++)
        numbers[i] = (float)(me * ELEMS + i);
    EXPECT(put(arena, numbers) == 0);
    for (unsigned i = 0; i < 2 * SWAPS; i++)
        EXPECT_OK(ds_comm_all_to_all(comm, i % 2 == 0 ? arena : arena + n,
                                     i % 2 == 0 ? arena + n : arena, n * sizeof(*arena), &err),
                  &err);
    EXPECT(get(numbers, arena) == 0 && cudaStreamSynchronize(stream.handle) == cudaSuccess);
    for (size_t i = 0; i < n; i++) {
        EXPECT(numbers[i] == (float)(me * ELEMS + i));
        EXPECT(numbers[n + i] == (float)(i / part * ELEMS + me * part + i % part));
    }
    EXPECT_OK(ds_comm_all_to_all(comm, arena, arena, 0, &err), &err);
    EXPECT(ds_comm_all_to_all(comm, arena, arena + n, 4 * world + 1, &err) ==
           (world > 1 ? -EINVAL : 0));
    return 0;
}

/* A number goes to the other rank, comes back larger, and both exchange theirs. */
static int pass_back(const struct ranks *setup, unsigned rank, struct ds_comm *pair)
{
    const bool first = ds_comm_rank(pair) == 0;
    float numbers[ELEMS], *arena = ds_comm_arena(pair), *to = arena + ELEMS / 2;
    const size_t bytes = ELEMS / 2 * sizeof(*arena);
    struct ds_error err = {0};

    for (size_t i = 0; i < ELEMS / 2; i++)
        numbers[i] = (float)(rank * ELEMS + i);
    EXPECT(put(arena, numbers) == 0);
    EXPECT_OK(ds_comm_pass(pair, first ? arena : NULL, first ? NULL : to, bytes, &err), &err);
    EXPECT_OK(ds_comm_pass(pair, first ? NULL : to, first ? to : NULL, bytes, &err), &err);
    EXPECT(get(numbers, arena) == 0 && cudaStreamSynchronize(stream.handle) == cudaSuccess);
    for (size_t i = 0; i < ELEMS / 2; i++)
        EXPECT(numbers[ELEMS / 2 + i] == (float)(rank / 2 * 2 * ELEMS + i));
    EXPECT_OK(ds_comm_pass(pair, arena, to, bytes, &err), &err);
    EXPECT(get(numbers, arena) == 0 && cudaStreamSynchronize(stream.handle) == cudaSuccess);
    for (size_t i = 0; i < ELEMS / 2; i++)
        EXPECT(numbers[ELEMS / 2 + i] == (float)((rank ^ 1U) * ELEMS + i));
    return 0;
}

static int rank_swaps(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    const struct ds_comm_group half = {.first = rank / 2 * 2, .stride = 1, .count = 2};
    struct ds_comm *comm = NULL, *group = NULL;
    struct ds_error err = {0};
    int line;

    EXPECT_OK(open_nccl(setup, rank, control, &comm, &err), &err);
    line = swap_often(setup, rank, comm);
    if (line == 0)
        line = swap_bytes(setup, rank, comm, LARGE);
    if (line == 0)
        line = swap_bytes(setup, rank, comm, 1);
    if (line != 0 || setup->world < 4)
        return close_nccl(comm, line);
    EXPECT_OK(ds_comm_split(comm, &half, &group, &err), &err);
    ds_comm_use_stream(group, &stream.base);
    line = swap_often(setup, rank, group);
    if (line == 0)
        line = pass_back(setup, rank, group);
    if (line == 0)
        line = swap_bytes(setup, rank, group, LARGE + rank / 2);
    (void)cudaStreamSynchronize(stream.handle);
    ds_comm_close(group);
    return close_nccl(comm, line);
}

/* What one rank cannot send is not left open: it says the same of the next one. */
static int rank_cannot_send(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    struct ds_comm *comm = NULL;
    struct ds_error err = {0};
    float *arena;
    int rc;

    EXPECT_OK(open_nccl(setup, rank, control, &comm, &err), &err);
    arena = ds_comm_arena(comm);
    for (unsigned i = 0; i <= rank; i++) {
        rc = ds_comm_all_to_all(comm, arena, arena + ELEMS / 2, BYTES / 2, &err);
        EXPECT(rc == (rank == 0 ? -ETIMEDOUT : -EREMOTEIO) || rc == -ECANCELED);
        EXPECT(rc != -EREMOTEIO ||
               strstr(err.text, "NCCL cannot all_to_all on rank 1: invalid argument") != NULL);
        EXPECT(rc != -ECANCELED || rank == 0);
    }
    return close_nccl(comm, 0);
}

/* --- all together ----------------------------------------------------------------------------- */

static int rank_works(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    struct ds_comm *comm = NULL, *group = NULL;
    struct ds_error err = {0};
    int line;

    EXPECT_OK(open_nccl(setup, rank, control, &comm, &err), &err);
    line = sums_and_shards(setup, rank, comm);
    if (line == 0)
        line = sums_of_bf16(setup, rank, comm);
    if (line == 0)
        line = sums_of_f16(setup, rank, comm);
    if (line != 0)
        return close_nccl(comm, line);
    EXPECT_OK(ds_comm_split(comm, &(struct ds_comm_group){.stride = 1, .count = 2}, &group, &err),
              &err);
    ds_comm_use_stream(group, &stream.base);
    line = sums_and_shards(setup, rank, group);
    (void)cudaStreamSynchronize(stream.handle);
    ds_comm_close(group);
    return close_nccl(comm, line);
}

/* Rank 1 does not come to a collective, the first, in which NCCL connects the ranks, or the second.
 * Rank 0 is told by its watchdog, who `is_missing`, and ends rank 1. */
static int wait_in_vain(const struct ranks *setup, unsigned rank, struct ds_comm *control,
                        const char *is_missing)
{
    unsigned long last = strtoul(getenv("FAKE_NCCL_NEVER") + strlen("1:"), NULL, 10);
    struct ds_comm *comm = NULL;
    struct ds_error err = {0};
    char words[96];
    int rc;

    EXPECT_OK(open_nccl(setup, rank, control, &comm, &err), &err);
    for (unsigned long i = 1; i < last; i++)
        EXPECT_OK(ds_comm_all_reduce_f32(comm, ds_comm_arena(comm), ELEMS, &err), &err);
    rc = ds_comm_all_reduce_f32(comm, ds_comm_arena(comm), ELEMS, &err);
    EXPECT(rank == 0); /* the other one has not come back */
    EXPECT(rc == 0 || last == 1);
    if (rc == 0) {
        EXPECT(ds_comm_barrier(comm, &err) != 0);
        rc = ds_comm_all_reduce_f32(comm, ds_comm_arena(comm), ELEMS, &err);
    }
    (void)kill(atomic_load(&board->pid[1]), SIGKILL);
    EXPECT(rc == -ETIMEDOUT);
    (void)snprintf(words, sizeof(words),
                   "collective %lu (all_reduce_f32 of 4000 bytes) is under way", last);
    EXPECT(strstr(err.text, words) != NULL);
    EXPECT(strstr(err.text, is_missing) != NULL);
    return close_nccl(comm, 0);
}

/* Of two groups whose collectives go to one stream, that of the group made last is the one that rank
 * 1 does not come to, and that of the other is queued behind it. */
static int groups_wait_in_vain(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    const struct ds_comm_group both = {.stride = 1, .count = 2};
    struct ds_comm *comm = NULL, *group[2] = {NULL, NULL};
    struct ds_error err = {0};
    int rc;

    EXPECT_OK(open_nccl(setup, rank, control, &comm, &err), &err);
    for (unsigned i = 0; i < 2; i++) {
        EXPECT_OK(ds_comm_split(comm, &both, &group[i], &err), &err);
        ds_comm_use_stream(group[i], &stream.base);
        EXPECT_OK(ds_comm_all_reduce_f32(group[i], ds_comm_arena(comm), ELEMS, &err), &err);
    }
    for (unsigned i = 2; i-- > 0;)
        EXPECT_OK(ds_comm_all_reduce_f32(group[i], ds_comm_arena(comm), ELEMS, &err), &err);
    EXPECT(rank == 0);
    EXPECT(ds_comm_barrier(comm, &err) != 0);
    rc = ds_comm_all_reduce_f32(comm, ds_comm_arena(comm), ELEMS, &err);
    (void)kill(atomic_load(&board->pid[1]), SIGKILL);
    EXPECT(rc == -ETIMEDOUT);
    EXPECT(strstr(err.text, "collective 3 (all_reduce_f32 of 4000 bytes) is under way") != NULL);
    ds_comm_close(group[1]);
    ds_comm_close(group[0]);
    return close_nccl(comm, 0);
}

static int rank_stays_away_from_parts(const struct ranks *setup, unsigned rank,
                                      struct ds_comm *control)
{
    struct ds_comm *comm = NULL;
    struct ds_error err = {0};
    float *arena;
    int rc = 0;

    EXPECT_OK(open_nccl(setup, rank, control, &comm, &err), &err);
    arena = ds_comm_arena(comm);
    for (unsigned i = 0; rc == 0 && i < 2; i++)
        rc = ds_comm_all_to_all(comm, arena, arena + ELEMS / 2, BYTES / 2, &err);
    EXPECT(rank == 0 && rc == 0);
    EXPECT(ds_comm_barrier(comm, &err) != 0);
    rc = ds_comm_all_to_all(comm, arena, arena + ELEMS / 2, BYTES / 2, &err);
    (void)kill(atomic_load(&board->pid[1]), SIGKILL);
    EXPECT(rc == -ETIMEDOUT);
    EXPECT(strstr(err.text, "collective 2 (all_to_all of 2000 bytes) is under way") != NULL);
    EXPECT(strstr(err.text, "rank 1 has not come; before it: 1 all_to_all of 2000") != NULL);
    return close_nccl(comm, 0);
}

static int rank_stays_away(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    return wait_in_vain(setup, rank, control, "s: rank 1 has not come; before");
}

/* That no answer comes says nothing of rank 1 when none can come. */
static int rank_cannot_ask(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    atomic_store(&board->over, true);
    return wait_in_vain(setup, rank, control, "s: the other ranks cannot be asked");
}

/* One rank gives up while the other works: all calls end. */
static int rank_gives_up(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    struct ds_comm *comm = NULL;
    struct ds_error err = {0};
    int rc = 0;

    EXPECT_OK(open_nccl(setup, rank, control, &comm, &err), &err);
    if (rank == 1)
        ds_comm_abort(comm);
    for (unsigned i = 0; rc == 0 && i < 100000; i++) {
        rc = ds_comm_all_reduce_f32(comm, ds_comm_arena(comm), ELEMS, &err);
        if (rc == 0)
            rc = ds_comm_barrier(comm, &err);
    }
    EXPECT(rc == -ECANCELED);
    return close_nccl(comm, 0);
}

static int rank_hears_of_an_error(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    struct ds_comm *comm = NULL;
    struct ds_error err = {0};
    int rc = 0;

    EXPECT_OK(open_nccl(setup, rank, control, &comm, &err), &err);
    for (unsigned i = 0; rc == 0 && i < 10; i++)
        rc = ds_comm_all_reduce_f32(comm, ds_comm_arena(comm), ELEMS, &err);
    EXPECT(rc == -EREMOTEIO && strstr(err.text, "remote process exited") != NULL);
    return close_nccl(comm, 0);
}

static int rank_cannot_start(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    struct ds_comm *comm = NULL;
    struct ds_error err = {0};
    int rc = open_nccl(setup, rank, control, &comm, &err);

    EXPECT(rc == -EREMOTEIO && strstr(err.text, "NCCL cannot start on rank ") != NULL);
    return 0;
}

/* NCCL takes two ranks on one device for a mistake. */
static int rank_is_there_twice(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    struct ds_comm *comm = NULL;
    struct ds_error err = {0};
    int rc = open_nccl(setup, rank, control, &comm, &err);

    EXPECT(rc == -EREMOTEIO && strstr(err.text, "NCCL cannot connect the ranks on rank ") != NULL);
    EXPECT(strstr(err.text, "invalid usage") != NULL);
    return 0;
}

static int rank_is_too_old(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    struct ds_comm *comm = NULL;
    struct ds_error err = {0};
    int rc = open_nccl(setup, rank, control, &comm, &err);

    EXPECT(rc == -ENOTSUP || rc == -ECANCELED); /* or told of it by the other one */
    EXPECT(rc == -ECANCELED || strstr(err.text, "install 2.19 or later") != NULL);
    return 0;
}

/* --- what is tried ---------------------------------------------------------------------------- */

static const struct {
    const char *name, *variable, *value;
    ranks_fn *rank;
    unsigned world;
} cases[] = {
    {"works", "FAKE_NCCL_FAIL", "", rank_works, 2},
    {"stays away", "FAKE_NCCL_NEVER", "1:2", rank_stays_away, 2},
    {"cannot ask", "FAKE_NCCL_NEVER", "1:2", rank_cannot_ask, 2},
    {"stays away from the first", "FAKE_NCCL_NEVER", "1:1", rank_stays_away, 2},
    {"stays away from a group", "FAKE_NCCL_NEVER", "1:3", groups_wait_in_vain, 2},
    {"two on a device", "NCCL_HOSTID", "one", rank_is_there_twice, 2},
    {"parts of one", "FAKE_NCCL_FAIL", "", rank_swaps, 1},
    {"parts of two", "FAKE_NCCL_FAIL", "", rank_swaps, 2},
    {"parts of three", "FAKE_NCCL_FAIL", "", rank_swaps, 3},
    {"parts of four and of groups", "FAKE_NCCL_FAIL", "", rank_swaps, 4},
    {"cannot send", "FAKE_NCCL_FAIL", "send:4", rank_cannot_send, 2},
    {"stays away from parts", "FAKE_NCCL_NEVER", "1:2", rank_stays_away_from_parts, 2},
    {"gives up", "FAKE_NCCL_FAIL", "", rank_gives_up, 2},
    {"an error", "FAKE_NCCL_FAIL", "async:6", rank_hears_of_an_error, 2},
    {"cannot start", "FAKE_NCCL_FAIL", "init:2", rank_cannot_start, 2},
    {"too old", "FAKE_NCCL_VERSION", "21500", rank_is_too_old, 2},
};

Test(nccl, sums_groups_and_failures)
{
    struct ranks setup = {.arena_bytes = 4096, .timeout_ms = 60000};

    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(board != MAP_FAILED);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memset(board, 0, sizeof(*board));
        setup.world = cases[i].world;
        cr_assert_eq(setenv(cases[i].variable, cases[i].value, 1), 0);
        cr_assert_eq(ranks_run_dying(setup, cases[i].rank, SIGKILL), 0, "%s", cases[i].name);
        cr_assert_eq(unsetenv(cases[i].variable), 0);
    }
    (void)munmap(board, sizeof(*board));
}
