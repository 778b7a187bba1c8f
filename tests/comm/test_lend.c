/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_lend - bodies that go out by reference: nobody's bytes change before they were used, a system
 * that has no vmsplice() copies, and peers that lie about receipts or hang up are errors.
 */
#include <criterion/criterion.h>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "runtime/comm/host.h"
#include "tests/comm/hosts.h"
#include "tests/comm/played.h"

enum { SLICE = DS_NET_LEND_MIN, CHUNK = DS_NET_CHUNK_MAX, LATE_MS = 300, SHORT_MS = 400 };

static struct hosts setup_of(const unsigned *count, size_t bytes, const void *user)
{
    struct hosts setup = {.arena_bytes = bytes, .timeout_ms = 60000, .user = user};

    memcpy(setup.count, count, sizeof(setup.count));
    return setup;
}

static struct ds__net *net_of(struct ds_comm *comm)
{
    return &((struct ds__host *)comm)->net;
}

static unsigned char pattern(unsigned rank, size_t i)
{
    return (unsigned char)(i * 131 + i / 4096 + rank * 17 + 1);
}

/* --- ranks that change their buffers at once -------------------------------------------------- */

struct plan {
    unsigned count[RANKS_MAX + 1];
    size_t n; /* floats */
    bool lends;
};

/* clang-format off */
static const struct plan plans[] = {
    {{1, 1},       2 * SLICE / 4 + 2 * 1021,     true},
    {{1, 1},       2 * SLICE / 4 - 64,           false}, /* too short to be worth it */
    {{1, 1, 1},    3 * SLICE / 4 + 3 * 7,        true},
    {{2, 1},       3 * SLICE / 4,                true},
    {{2, 2},       4 * SLICE / 4 + 4 * 4099,     true},
    {{1, 3},       4 * SLICE / 4,                true},
};
/* clang-format on */

enum { PLANS = sizeof(plans) / sizeof(plans[0]), ROUNDS = 12 };

static int check_round(const struct hosts *setup, unsigned rank, struct ds_comm *comm,
                       unsigned round)
{
    const struct plan *plan = setup->user;
    const size_t shard = plan->n / setup->world;
    float *buf = ds_comm_arena(comm), *to = malloc(plan->n * sizeof(*to));
    struct ds_error err = {0};

    for (size_t i = 0; i < plan->n; i++)
        buf[i] = ranks_value(rank, i + round);
    if (round % 5 == 4)
        EXPECT_OK(ds_comm_all_to_all(comm, buf, to, plan->n * sizeof(*buf), &err), &err);
    else if (round % 5 == 0)
        EXPECT_OK(ds_comm_all_reduce_f32(comm, buf, plan->n, &err), &err);
    else if (round % 5 == 1)
        EXPECT_OK(ds_comm_reduce_scatter_f32(comm, buf, plan->n, &err), &err);
    else if (round % 5 == 2)
        EXPECT_OK(ds_comm_all_gather(comm, buf, plan->n * sizeof(*buf), &err), &err);
    else
        EXPECT_OK(ds_comm_broadcast(comm, buf, plan->n * sizeof(*buf), round % setup->world, &err),
                  &err);
    for (size_t i = 0; i < plan->n; i++) {
        unsigned owner = (unsigned)(i / shard);
        float want = round % 5 == 2   ? ranks_value(owner, i + round)
                     : round % 5 == 3 ? ranks_value(round % setup->world, i + round)
                     : round % 5 == 4 ? ranks_value(owner, rank * shard + i % shard + round)
                                      : ranks_tree(0, setup->world, i + round);

        if (round % 5 != 1 || owner == rank)
            EXPECT(memcmp(round % 5 == 4 ? &to[i] : &buf[i], &want, sizeof(want)) == 0);
    }
    free(to);
    return 0;
}

static int rank_hasty(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const struct plan *plan = setup->user;

    for (unsigned round = 0; round < ROUNDS; round++) {
        int line;

        if (rank == round % setup->world) /* the others' frames are there before it comes */
            for (unsigned i = 0; i < 20; i++)
                hosts_nap();
        line = check_round(setup, rank, comm, round);
        if (line != 0)
            return line;
        memset(ds_comm_arena(comm), 0xff, plan->n * sizeof(float));
    }
    if (rank == 0 && net_of(comm)->loans.on)
        EXPECT((net_of(comm)->lent_bytes > 0) == plan->lends);
    return 0;
}

Test(lend, buffers_may_change_when_a_call_returns)
{
    for (size_t i = 0; i < PLANS; i++) {
        int line = hosts_run(setup_of(plans[i].count, (plans[i].n + 64) * sizeof(float), &plans[i]),
                             rank_hasty);

        cr_assert(line == 0, "plan %zu: line %d", i, line);
    }
}

/* --- a peer played by hand -------------------------------------------------------------------- */

static bool push_head(int fd, uint32_t kind, unsigned chunk)
{
    const struct played_head head = {
        .kind = kind, .sequence = 1, .op = DS_COMM_ALL_GATHER, .bytes = 2 * SLICE, .chunk = chunk};

    return played_head(fd, &head);
}

/* Rank 1's slice of the all-gather. */
static bool push_slice(int fd)
{
    unsigned char *body = malloc(CHUNK);
    bool fine = body != NULL;

    for (unsigned chunk = 0; fine && chunk < SLICE / CHUNK; chunk++) {
        for (size_t i = 0; i < CHUNK; i++)
            body[i] = pattern(1, SLICE + chunk * CHUNK + i);
        fine = push_head(fd, DS_FRAME_GATHER, chunk) && played_push(fd, body, CHUNK);
    }
    free(body);
    return fine;
}

/* Take rank 0's frames; wait before the last of them.  False: they are not what they were. */
static bool pull_slice(const struct hosts *setup, int fd, uint32_t *kind, bool *early)
{
    const size_t late = CHUNK / 2;
    unsigned char *body = malloc(CHUNK);
    uint8_t head[DS_NET_HEAD_BYTES];
    bool fine = body != NULL;

    for (unsigned chunk = 0; fine && chunk < SLICE / CHUNK; chunk++) {
        bool last = (chunk + 1) * CHUNK == SLICE;
        size_t first = last ? late : CHUNK;

        fine = played_pull(fd, head, sizeof(head)) && played_pull(fd, body, first);
        *kind = chunk == 0 ? ds_get_u32(head + DS_FRAME_AT_KIND) : *kind;
        for (unsigned ms = 0; last && ms < LATE_MS; ms++)
            hosts_nap();
        *early = atomic_load(&setup->page->word[0]) != 0;
        fine = fine && played_pull(fd, body + first, CHUNK - first);
        for (size_t i = 0; fine && i < CHUNK; i++)
            fine = body[i] == pattern(0, chunk * CHUNK + i);
    }
    free(body);
    return fine;
}

static int call_gather(const struct hosts *setup, unsigned rank, struct ds_comm *comm,
                       struct ds_error *err)
{
    unsigned char *buf = ds_comm_arena(comm);
    int rc;

    for (size_t i = 0; i < SLICE; i++)
        buf[i] = pattern(rank, i);
    rc = ds_comm_all_gather(comm, buf, 2 * SLICE, err);
    memset(buf, 0xff, SLICE);
    atomic_store(&setup->page->word[0], 1);
    return rc;
}

/* All that rank 0 sends has left it, rank 1 has yet to read the last of it. */
static int rank_late(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const unsigned char *buf = ds_comm_arena(comm);
    struct ds_error err = {0};
    uint32_t kind = 0;
    bool early = true;

    if (rank == 0) {
        EXPECT_OK(call_gather(setup, rank, comm, &err), &err);
        for (size_t i = SLICE; i < 2 * SLICE; i++)
            EXPECT(buf[i] == pattern(1, i));
        return 0;
    }
    EXPECT(push_slice(net_of(comm)->mesh->fd[0]));
    EXPECT(pull_slice(setup, net_of(comm)->mesh->fd[0], &kind, &early));
    EXPECT(!early);
    EXPECT((kind & DS_FRAME_LENT) != 0 || !net_of(comm)->loans.on);
    EXPECT(push_head(net_of(comm)->mesh->fd[0], DS_FRAME_RECEIPT, 0));
    while (atomic_load(&setup->page->word[0]) == 0)
        hosts_nap();
    return 0;
}

static const unsigned pair[RANKS_MAX + 1] = {1, 1};

Test(lend, what_is_lent_comes_back_before_a_call_returns)
{
    cr_assert(hosts_run(setup_of(pair, 2 * SLICE, NULL), rank_late) == 0);
}

/* --- peers that lie --------------------------------------------------------------------------- */

struct lie {
    uint32_t kind;
    unsigned chunk;
    bool gives; /* its slice, before */
    uint64_t timeout_ms;
    int rc;
};

/* clang-format off */
static const struct lie lies[] = {
    {DS_FRAME_RECEIPT,                  1, true,  60000,    -EPROTO}, /* not the first of them */
    {DS_FRAME_RECEIPT | DS_FRAME_LENT,  0, true,  60000,    -EPROTO},
    {DS_FRAME_GATHER | 0x200,           0, false, 60000,    -EPROTO},
    {DS_FRAME_PAIR,                     0, false, 60000,    -EPROTO},
    {5,                                 0, false, 60000,    -EPROTO},
    {DS_FRAME_RECEIPT,                  0, false, SHORT_MS, -ETIMEDOUT}, /* and then nothing */
};
/* clang-format on */

enum { LIES = sizeof(lies) / sizeof(lies[0]) };

static int rank_lied_to(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const struct lie *lie = setup->user;
    unsigned char *body = malloc(SLICE / CHUNK * (DS_NET_HEAD_BYTES + (size_t)CHUNK));
    int fd = net_of(comm)->mesh->fd[1 - rank], rc;
    struct ds_error err = {0};

    if (rank == 1) {
        EXPECT(body != NULL && (!lie->gives || push_slice(fd)));
        EXPECT(played_pull(fd, body, SLICE / CHUNK * (DS_NET_HEAD_BYTES + (size_t)CHUNK)));
        EXPECT(push_head(fd, lie->kind, lie->chunk));
        while (atomic_load(&setup->page->word[0]) == 0)
            hosts_nap();
        free(body);
        return 0;
    }
    free(body);
    rc = call_gather(setup, rank, comm, &err);
    EXPECT(rc == lie->rc);
    EXPECT(strstr(err.text, "rank 1") != NULL);
    return 0;
}

Test(lend, peers_that_lie_about_receipts)
{
    for (size_t i = 0; i < LIES; i++) {
        struct hosts setup = setup_of(pair, 2 * SLICE, &lies[i]);
        int line;

        setup.timeout_ms = lies[i].timeout_ms;
        line = hosts_run(setup, rank_lied_to);
        cr_assert(line == 0, "lie %zu: line %d", i, line);
    }
}

/* Who never answers is named, though all its data has come. */
static int rank_unanswered(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    struct ds_error err = {0};

    if (rank == 1) {
        EXPECT(push_slice(net_of(comm)->mesh->fd[0]));
        while (atomic_load(&setup->page->word[0]) == 0)
            hosts_nap();
        return 0;
    }
    EXPECT(call_gather(setup, rank, comm, &err) == -ETIMEDOUT);
    EXPECT(strstr(err.text, "rank 1") != NULL);
    return 0;
}

Test(lend, a_receipt_that_never_comes)
{
    struct hosts setup = setup_of(pair, 2 * SLICE, NULL);

    setup.timeout_ms = SHORT_MS;
    cr_assert(hosts_run(setup, rank_unanswered) == 0);
}

/* --- peers that hang up ----------------------------------------------------------------------- */

static int rank_left(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const size_t bytes = setup->arena_bytes;
    int fd = net_of(comm)->mesh->fd[1 - rank];
    sigset_t before, after;
    uint8_t head[DS_NET_HEAD_BYTES];
    struct ds_error err = {0};

    if (rank == 1) { /* much is under way then, and more to come */
        EXPECT(played_pull(fd, head, sizeof(head)));
        EXPECT(shutdown(fd, SHUT_RDWR) == 0);
        return 0;
    }
    (void)signal(SIGPIPE, SIG_DFL);
    EXPECT(pthread_sigmask(SIG_BLOCK, NULL, &before) == 0);
    EXPECT(ds_comm_all_gather(comm, ds_comm_arena(comm), bytes, &err) == -ECONNRESET);
    EXPECT(strstr(err.text, "rank 1") != NULL);
    EXPECT(pthread_sigmask(SIG_BLOCK, NULL, &after) == 0);
    EXPECT(sigismember(&before, SIGPIPE) == sigismember(&after, SIGPIPE));
    EXPECT(sigpending(&after) == 0 && sigismember(&after, SIGPIPE) == 0);
    return 0;
}

Test(lend, a_peer_that_hangs_up_raises_no_signal)
{
    for (unsigned i = 0; i < 5; i++)
        cr_assert(hosts_run(setup_of(pair, (size_t)32 << 20, NULL), rank_left) == 0, "%u", i);
}

/* --- systems that refuse ---------------------------------------------------------------------- */

static int forbid(long call, int why)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)why),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

struct refusal {
    struct plan plan; /* first: what check_round() reads */
    long call;
    int why;
};

static const struct refusal refusals[] = {
    {{{1, 1}, 2 * SLICE / 4, false}, SYS_vmsplice, ENOSYS},
    {{{1, 1}, 2 * SLICE / 4, false}, SYS_vmsplice, EPERM},
    {{{1, 1}, 2 * SLICE / 4, false}, SYS_splice, EINVAL},
};

enum { REFUSALS = sizeof(refusals) / sizeof(refusals[0]) };

static int rank_refused(const struct hosts *setup, unsigned rank, struct ds_comm *comm)
{
    const struct refusal *refusal = setup->user;

    EXPECT(net_of(comm)->loans.on);
    EXPECT(rank == 1 || forbid(refusal->call, refusal->why) == 0); /* the other one lends */
    for (unsigned round = 0; round < 5; round++) {
        int line = check_round(setup, rank, comm, round);

        if (line != 0)
            return line;
    }
    EXPECT(net_of(comm)->loans.on == (rank == 1));
    EXPECT((net_of(comm)->lent_bytes > 0) == (rank == 1));
    return 0;
}

Test(lend, bodies_are_copied_where_the_system_refuses)
{
    for (size_t i = 0; i < REFUSALS; i++) {
        int line = hosts_run(setup_of(pair, refusals[i].plan.n * sizeof(float), &refusals[i]),
                             rank_refused);

        cr_assert(line == 0, "refusal %zu: line %d", i, line);
    }
}
