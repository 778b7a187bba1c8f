/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_worker - dsrun-worker processes, driven as an agent does: frames over socket pairs, a shared
 * memfd, the environment of runtime/link.h.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/json_read.h"
#include "base/wire.h"
#include "runtime/ckpt/ckpt.h"
#include "runtime/spec.h"

enum { WORLD = 2, MAX_STEPS = 64 };

/* What the ranks of one start said. */
struct outcome {
    unsigned ranks_done, metrics, acks;
    int status[WORLD];
    char loss[MAX_STEPS][160]; /* the metric's line up to "tokens", by step */
    double valid;              /* of the last evaluation */
    long resumed_at;           /* -1: not said */
    bool metric_before_resumed;
    char warning[1024], errors[4096], from[DS_MAX_PATH];
    unsigned checkpoints;
    bool metric_unflushed; /* a checkpoint was committed with metrics under way */
};

struct rank {
    pid_t pid;
    int link, err;
    struct ds_buf in;
};

/* How the driver disturbs the run. */
struct plan_of_trouble {
    unsigned stop_after, kill_after; /* metrics seen; 0 never */
    bool by_signal;
};

static char folder[256];

static void make_folder(void)
{
    const char *parent = getenv("TMPDIR");

    (void)snprintf(folder, sizeof(folder), "%s/dsrun-test-worker.XXXXXX",
                   parent != NULL ? parent : "/tmp");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
    cr_assert_eq(ds_fs_remove_tree(folder, NULL), 0);
}

TestSuite(worker, .init = make_folder, .fini = remove_folder, .timeout = 60);

static void worker_path(char *out)
{
    char here[DS_MAX_PATH];

    cr_assert_eq(ds_path_self_dir(here, NULL), 0);
    cr_assert_eq(ds_path_join(out, here, "../../libexec/dsrun/dsrun-worker", NULL), 0);
}

/* In the child: keep the fds, set the environment, become a worker. */
static void become_worker(const char *path, unsigned rank, int link, int shm, int err)
{
    char text[32];

    (void)dup2(err, 2);
    (void)fcntl(link, F_SETFD, 0);
    (void)fcntl(shm, F_SETFD, 0);
    (void)snprintf(text, sizeof(text), "%u", rank);
    (void)setenv("RANK", text, 1);
    (void)setenv("LOCAL_RANK", text, 1);
    (void)setenv("WORLD_SIZE", "2", 1);
    (void)setenv("LOCAL_WORLD_SIZE", "2", 1);
    (void)setenv("NODE_RANK", "0", 1);
    (void)snprintf(text, sizeof(text), "%d", link);
    (void)setenv("DSRUN_LINK_FD", text, 1);
    (void)snprintf(text, sizeof(text), "%d", shm);
    (void)setenv("DSRUN_SHM_FD", text, 1);
    (void)execl(path, "dsrun-worker", (char *)NULL);
    _exit(127);
}

static void start_rank(struct rank *rank, unsigned index, int shm)
{
    int pair[2], err[2];
    char path[DS_MAX_PATH];

    worker_path(path);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    cr_assert_eq(pipe2(err, O_CLOEXEC), 0);
    rank->pid = fork();
    cr_assert_geq(rank->pid, 0);
    if (rank->pid == 0)
        become_worker(path, index, pair[1], shm, err[1]);
    (void)close(pair[1]);
    (void)close(err[1]);
    rank->link = pair[0];
    rank->err = err[0];
    ds_buf_init(&rank->in, 1 << 22);
}

static void send_frame(const struct rank *rank, enum ds_wire_type type, const void *bytes,
                       size_t len)
{
    struct ds_buf out;
    const struct ds_frame frame = {.type = (uint16_t)type, .payload = bytes, .len = (uint32_t)len};

    ds_buf_init(&out, 1 << 21);
    cr_assert_eq(ds_wire_encode(&out, &frame), 0);
    (void)send(rank->link, out.data, out.len, MSG_NOSIGNAL); /* it may have ended: its exit tells */
    ds_buf_release(&out);
}

static void send_signal(const struct rank *rank, enum ds_wire_signal signum)
{
    uint8_t payload[4];

    ds_put_u32(payload, signum);
    send_frame(rank, DS_WIRE_SIGNAL, payload, sizeof(payload));
}

static void take_event(struct outcome *out, const struct ds_frame *frame)
{
    json_t *json = ds_json_parse(frame->payload, frame->len, NULL);
    const char *event, *text;

    cr_assert_not_null(json, "%.*s", (int)frame->len, (const char *)frame->payload);
    event = json_string_value(json_object_get(json, "event"));
    text = json_string_value(json_object_get(json, "text"));
    if (strcmp(event, "resumed") == 0) {
        const char *from = json_string_value(json_object_get(json, "from"));

        out->resumed_at = (long)json_integer_value(json_object_get(json, "step"));
        (void)snprintf(out->from, sizeof(out->from), "%s", from != NULL ? from : "");
    }
    if (strcmp(event, "warning") == 0)
        (void)snprintf(out->warning, sizeof(out->warning), "%s", text);
    if (strcmp(event, "checkpoint") == 0) {
        out->checkpoints++;
        out->metric_unflushed = out->metric_unflushed || out->acks < out->checkpoints;
    }
    json_decref(json);
}

static void take_metric(struct outcome *out, const struct ds_frame *frame)
{
    json_t *json = ds_json_parse(frame->payload, frame->len, NULL);
    const char *line = frame->payload, *end;
    long step;

    cr_assert_not_null(json);
    step = (long)json_integer_value(json_object_get(json, "step"));
    out->metric_before_resumed = out->metric_before_resumed || out->resumed_at < 0;
    if (json_object_get(json, "valid_loss") != NULL) {
        out->valid = json_real_value(json_object_get(json, "valid_loss"));
    } else {
        end = memmem(line, frame->len, ",\"tokens\"", 9);
        cr_assert_not_null(end, "%.*s", (int)frame->len, line);
        cr_assert(step >= 0 && step < MAX_STEPS);
        (void)snprintf(out->loss[step], sizeof(out->loss[step]), "%.*s", (int)(end - line), line);
        out->metrics++;
    }
    json_decref(json);
}

static void take_frame(struct rank *rank, struct outcome *out, const struct ds_frame *frame)
{
    if (frame->type == DS_WIRE_EVENT)
        take_event(out, frame);
    if (frame->type == DS_WIRE_METRIC)
        take_metric(out, frame);
    if ((frame->flags & DS_WIRE_WANT_ACK) != 0) {
        out->acks++;
        send_frame(rank, DS_WIRE_ACK, NULL, 0);
    }
}

/* Frames of one rank until there are no more for now; false at the end of its line. */
static bool pump(struct rank *rank, struct outcome *out)
{
    struct ds_frame frame;
    size_t used;
    char *room = ds_buf_reserve(&rank->in, 65536);
    ssize_t got = recv(rank->link, room, 65536, 0);

    if (got <= 0)
        return false;
    ds_buf_commit(&rank->in, (size_t)got);
    while (ds_wire_decode(rank->in.data, rank->in.len, &frame, &used, NULL) > 0) {
        take_frame(rank, out, &frame);
        ds_buf_consume(&rank->in, used);
    }
    return true;
}

static void read_errors(const struct rank *rank, struct outcome *out)
{
    size_t have = strlen(out->errors);
    ssize_t got = read(rank->err, out->errors + have, sizeof(out->errors) - 1 - have);

    out->errors[have + (got > 0 ? (size_t)got : 0)] = '\0';
}

/* Serve both ranks to their end; the first that fails has the other told, as an agent does. */
static void serve(struct rank *ranks, struct outcome *out, const struct plan_of_trouble *trouble)
{
    bool live[WORLD] = {true, true}, stopped = false;

    while (live[0] || live[1]) {
        struct pollfd fds[WORLD];

        for (unsigned i = 0; i < WORLD; i++)
            fds[i] = (struct pollfd){.fd = live[i] ? ranks[i].link : -1, .events = POLLIN};
        cr_assert_gt(poll(fds, WORLD, 30000), 0, "the workers hang");
        for (unsigned i = 0; i < WORLD; i++) {
            if (fds[i].revents == 0 || pump(&ranks[i], out))
                continue;
            live[i] = false;
            read_errors(&ranks[i], out);
            (void)waitpid(ranks[i].pid, &out->status[i], 0);
            if (out->status[i] != 0 && live[1 - i] &&
                WEXITSTATUS(out->status[i]) != DS_EXIT_STOPPED)
                send_signal(&ranks[1 - i], DS_SIGNAL_ABORT);
        }
        if (trouble->stop_after > 0 && out->metrics >= trouble->stop_after && !stopped) {
            stopped = true; /* one rank only: they must agree */
            if (trouble->by_signal)
                (void)kill(ranks[1].pid, SIGTERM);
            else
                send_signal(&ranks[1], DS_SIGNAL_STOP);
        }
        if (trouble->kill_after > 0 && out->metrics >= trouble->kill_after && live[1])
            (void)kill(ranks[1].pid, SIGKILL);
    }
}

static struct outcome start(const char *job, unsigned attempt, struct plan_of_trouble trouble)
{
    struct rank ranks[WORLD];
    struct outcome out = {.resumed_at = -1};
    struct ds_run_spec spec = {.attempt = attempt, .job_text = job, .job_bytes = strlen(job)};
    struct ds_buf text;
    int shm = memfd_create("test", MFD_CLOEXEC);

    (void)snprintf(spec.run_dir, sizeof(spec.run_dir), "%s/run", folder);
    cr_assert_not_null(getcwd(spec.cwd, sizeof(spec.cwd)));
    ds_buf_init(&text, 1 << 20);
    cr_assert_eq(ds_run_spec_write(&spec, &text, NULL), 0);
    for (unsigned i = 0; i < WORLD; i++) {
        start_rank(&ranks[i], i, shm);
        send_frame(&ranks[i], DS_WIRE_SPEC, text.data, text.len);
    }
    serve(ranks, &out, &trouble);
    for (unsigned i = 0; i < WORLD; i++) {
        (void)close(ranks[i].link);
        (void)close(ranks[i].err);
        ds_buf_release(&ranks[i].in);
    }
    (void)close(shm);
    ds_buf_release(&text);
    return out;
}

#define JOB_HEAD                                                                                   \
    "name: t\nrun_dir: unused\nmodel: {arch: llama, layers: 2, hidden: 32, heads: 4, kv_heads: 2," \
    " ffn: 48, vocab: 256, context: 32}\n"                                                         \
    "data: {train: [README.md], valid: [LICENSE]}\n"                                               \
    "optim: {lr: 1.0e-3}\nschedule: {kind: cosine, warmup: 2, steps: 12, min_lr: 1.0e-4}\n"
#define JOB_STEPS "train: {steps: 12, global_batch: 8, micro_batch: 2, sequence: 32}\n"
#define JOB(checkpoint)                                                                            \
    JOB_HEAD JOB_STEPS "checkpoint: {" checkpoint "}\neval: {every: 6, batches: 2}\n"              \
                       "launch: {device: cpu, threads: 1}\n"
static const char job_text[] = JOB("every: 5, keep: 2");
static const char job_at_once[] = JOB("every: 5, keep: 2, async: false");
static const char job_every_step[] = JOB("every: 1, keep: 2");

static void expect_done(const struct outcome *out)
{
    cr_assert_eq(out->status[0], 0, "%s", out->errors);
    cr_assert_eq(out->status[1], 0, "%s", out->errors);
    cr_assert_str_eq(out->errors, "");
}

static void expect_same(const struct outcome *a, const struct outcome *b, long first)
{
    for (long step = first; step < 12; step++)
        cr_assert_str_eq(a->loss[step], b->loss[step]);
    cr_assert_eq(a->valid, b->valid);
}

Test(worker, trains_reports_and_commits_after_the_metrics_are_safe)
{
    struct outcome out = start(job_text, 0, (struct plan_of_trouble){0});
    struct ds_ckpt_list list;

    expect_done(&out);
    cr_assert_eq(out.metrics, 12);
    cr_assert_eq(out.resumed_at, 0);
    cr_assert_not(out.metric_before_resumed);
    cr_assert_eq(out.checkpoints, 3); /* 5, 10 and the last step */
    cr_assert_not(out.metric_unflushed);
    cr_assert(out.valid > 0.0 && out.valid < 6.0, "%g", out.valid);
    cr_assert(strstr(out.loss[0], "\"step\":0,\"loss\":5.") != NULL, "%s", out.loss[0]);
    (void)strncat(folder, "/run", sizeof(folder) - strlen(folder) - 1);
    cr_assert_eq(ds_ckpt_list(folder, &list, NULL), 0);
    cr_assert_eq(list.count, 2); /* keep */
    cr_assert_eq(list.entry[0].step, 12);
    ds_ckpt_list_release(&list);
    folder[strlen(folder) - 4] = '\0';

    out = start(job_text, 0, (struct plan_of_trouble){0}); /* nothing left to do */
    expect_done(&out);
    cr_assert_eq(out.metrics, 0);
    cr_assert_eq(out.resumed_at, 12);
}

static void interrupted(bool by_signal)
{
    struct outcome whole = start(job_text, 0, (struct plan_of_trouble){0}), first, second;

    cr_assert_eq(ds_fs_remove_tree(folder, NULL), 0);
    first = start(job_text, 0, (struct plan_of_trouble){.stop_after = 3, .by_signal = by_signal});
    for (unsigned i = 0; i < WORLD; i++)
        cr_assert_eq(WEXITSTATUS(first.status[i]), DS_EXIT_STOPPED, "rank %u: %s", i, first.errors);
    second = start(job_text, 0, (struct plan_of_trouble){0});
    expect_done(&second);
    cr_assert_eq(second.resumed_at, first.metrics);
    cr_assert_eq(second.metrics + first.metrics, 12);
    expect_same(&whole, &second, second.resumed_at);
}

Test(worker, a_stop_frame_saves_and_the_run_goes_on_with_the_same_bits)
{
    interrupted(false);
}

Test(worker, sigterm_of_one_rank_saves_and_the_run_goes_on_with_the_same_bits)
{
    interrupted(true);
}

Test(worker, a_killed_rank_ends_the_other_and_the_run_goes_on_with_the_same_bits)
{
    struct outcome whole = start(job_at_once, 0, (struct plan_of_trouble){0}), first, second;

    cr_assert_eq(ds_fs_remove_tree(folder, NULL), 0);
    first = start(job_at_once, 0, (struct plan_of_trouble){.kill_after = 7});
    cr_assert(WIFSIGNALED(first.status[1]) && WTERMSIG(first.status[1]) == SIGKILL);
    cr_assert(WIFEXITED(first.status[0]));
    cr_assert_neq(WEXITSTATUS(first.status[0]), 0);
    cr_assert_str_eq(first.errors, "", "a victim spoke: %s", first.errors);
    second = start(job_at_once, 1, (struct plan_of_trouble){0});
    expect_done(&second);
    cr_assert_geq(second.resumed_at, 5);
    expect_same(&whole, &second, second.resumed_at);
}

/* With a checkpoint under way at every moment.  All that are there are whole; a second save waits
 * for the first, so that the last but one step's is there. */
Test(worker, killed_while_it_writes_behind_it_goes_on_with_the_same_bits)
{
    struct outcome whole = start(job_at_once, 0, (struct plan_of_trouble){0}), first, second;

    cr_assert_eq(ds_fs_remove_tree(folder, NULL), 0);
    first = start(job_every_step, 0, (struct plan_of_trouble){.kill_after = 7});
    cr_assert(WIFSIGNALED(first.status[1]));
    second = start(job_every_step, 1, (struct plan_of_trouble){0});
    expect_done(&second);
    cr_assert_str_eq(second.warning, "", "%s", second.warning);
    cr_assert_geq(second.resumed_at, 5);
    expect_same(&whole, &second, second.resumed_at);
    cr_assert_eq(second.checkpoints, 12 - second.resumed_at);
}

/* Change one byte in the middle of the newest checkpoint's weights. */
static void damage(const char *step)
{
    char path[DS_MAX_PATH];
    unsigned char byte;
    int fd;

    (void)snprintf(path, sizeof(path), "%s/run/checkpoints/%s/weights-00001-of-00002.safetensors",
                   folder, step);
    fd = open(path, O_RDWR | O_CLOEXEC);
    cr_assert_geq(fd, 0, "%s", path);
    cr_assert_eq(pread(fd, &byte, 1, 9000), 1);
    byte ^= 1;
    cr_assert_eq(pwrite(fd, &byte, 1, 9000), 1);
    (void)close(fd);
}

Test(worker, a_damaged_checkpoint_is_named_and_the_one_before_is_taken)
{
    struct outcome whole = start(job_text, 0, (struct plan_of_trouble){0}), out;

    damage("step-00000012");
    out = start(job_text, 0, (struct plan_of_trouble){0});
    expect_done(&out);
    cr_assert_eq(out.resumed_at, 10);
    cr_assert(strstr(out.warning, "step-00000012") != NULL, "%s", out.warning);
    cr_assert(strstr(out.warning, "weights-00001") != NULL, "%s", out.warning);
    cr_assert(strstr(out.from, "step-00000010") != NULL, "%s", out.from);
    expect_same(&whole, &out, 10);

    damage("step-00000012");
    damage("step-00000010");
    out = start(job_text, 0, (struct plan_of_trouble){0});
    cr_assert_eq(WEXITSTATUS(out.status[0]), DS_EXIT_DATA, "%s", out.errors);
    cr_assert(strstr(out.errors, "checkpoint.resume") != NULL, "%s", out.errors);
}

Test(worker, errors_are_one_line_with_the_right_code)
{
    static const struct {
        const char *job;
        int code;
        const char *says;
    } cases[] = {
        {"name: [\n", DS_EXIT_DATA, "job:"},
        {"dsrun: 1\n", DS_EXIT_DATA, "dsrun"},
        {JOB_HEAD "train: {steps: 2, global_batch: 6, micro_batch: 2, sequence: 32}\n",
         DS_EXIT_DATA, "global_batch"},
        {JOB_HEAD JOB_STEPS "checkpoint: {resume: /nowhere/at/all}\n", DS_EXIT_USAGE, "/nowhere"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct outcome out = start(cases[i].job, 0, (struct plan_of_trouble){0});
        int code = WEXITSTATUS(out.status[0]);

        if (code != cases[i].code) /* the other rank was first */
            code = WEXITSTATUS(out.status[1]);
        cr_assert_eq(code, cases[i].code, "case %zu: %d %s", i, code, out.errors);
        cr_assert(strncmp(out.errors, "dsrun-worker: error: ", 21) == 0, "case %zu: %s", i,
                  out.errors);
        cr_assert(strstr(out.errors, cases[i].says) != NULL, "case %zu: %s", i, out.errors);
    }
}

Test(worker, without_an_agent_it_says_so)
{
    char path[DS_MAX_PATH];
    int status;
    pid_t pid;

    worker_path(path);
    pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

        (void)dup2(null, 2);
        (void)unsetenv("WORLD_SIZE");
        (void)execl(path, "dsrun-worker", (char *)NULL);
        _exit(127);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(WEXITSTATUS(status), DS_EXIT_DATA);
}
