/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_nccl.c - the backend `nccl` and its watchdog, on doubles of CUDA and NCCL (tests/fakes/): sums, groups,
 * and each way in which NCCL fails.  Ranks are processes, for a process has one CUDA runtime; each has a thread
 * that watches, one that connects and one that a stream works in.
 */
#include <criterion/criterion.h>

#include <errno.h>
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

static const struct ds_backend_queues queues = {.handle = handle_of};
static const struct ds_backend backend = {.name = "one stream", .queues = &queues};
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

static int rank_works(const struct ranks *setup, unsigned rank, struct ds_comm *control)
{
    struct ds_comm *comm = NULL, *group = NULL;
    struct ds_error err = {0};
    int line;

    EXPECT_OK(open_nccl(setup, rank, control, &comm, &err), &err);
    line = sums_and_shards(setup, rank, comm);
    if (line == 0)
        line = sums_of_bf16(setup, rank, comm);
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
} cases[] = {
    {"works", "FAKE_NCCL_FAIL", "", rank_works},
    {"stays away", "FAKE_NCCL_NEVER", "1:2", rank_stays_away},
    {"cannot ask", "FAKE_NCCL_NEVER", "1:2", rank_cannot_ask},
    {"stays away from the first", "FAKE_NCCL_NEVER", "1:1", rank_stays_away},
    {"stays away from a group", "FAKE_NCCL_NEVER", "1:3", groups_wait_in_vain},
    {"two on a device", "NCCL_HOSTID", "one", rank_is_there_twice},
    {"gives up", "FAKE_NCCL_FAIL", "", rank_gives_up},
    {"an error", "FAKE_NCCL_FAIL", "async:6", rank_hears_of_an_error},
    {"cannot start", "FAKE_NCCL_FAIL", "init:2", rank_cannot_start},
    {"too old", "FAKE_NCCL_VERSION", "21500", rank_is_too_old},
};

Test(nccl, sums_groups_and_failures)
{
    const struct ranks setup = {.world = 2, .arena_bytes = 4096, .timeout_ms = 60000};

    board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert(board != MAP_FAILED);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memset(board, 0, sizeof(*board));
        cr_assert_eq(setenv(cases[i].variable, cases[i].value, 1), 0);
        cr_assert_eq(ranks_run_dying(setup, cases[i].rank, SIGKILL), 0, "%s", cases[i].name);
        cr_assert_eq(unsetenv(cases[i].variable), 0);
    }
    (void)munmap(board, sizeof(*board));
}
