/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * slurm.c - the launcher's half of slurm.h.
 *
 * Agents come to a door (door.h) that is open as long as the step.
 */
#include "launcher/remote/slurm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fsio.h"
#include "launcher/helper.h"
#include "launcher/reap.h"
#include "launcher/remote/door.h"
#include "launcher/remote/join.h"

enum { TAIL_BYTES = 2048, PATIENCE_MS = 1000, STRAGGLE_MS = 3000 };

struct slurm {
    struct ds_starter base;
    struct ds_door door;
    struct ds_watch output; /* of srun: its stdout and stderr */
    pid_t pid;              /* of srun; 0: none */
    int stdin_fd;           /* of srun: our end; -1: none */
    uint8_t key[DS_SEAL_KEY_BYTES];
    char tail[TAIL_BYTES]; /* what srun said last */
    size_t tail_len;
    uint64_t hang_up_ns; /* srun is gone: when agents that do not know it yet are told; 0: not */
    bool begun, srun_ended;
};

/* --- srun ------------------------------------------------------------------------------------- */

static void on_output(struct ds_watch *watch, uint32_t events)
{
    struct slurm *slurm = watch->user;
    char bytes[TAIL_BYTES / 2];
    ssize_t n = read(watch->fd, bytes, sizeof(bytes));

    (void)events;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        int fd = watch->fd;

        ds_loop_remove(slurm->base.args.loop, watch);
        (void)close(fd);
        slurm->srun_ended = true;
        slurm->hang_up_ns = ds_clock_mono_ns() + PATIENCE_MS * UINT64_C(1000000);
        return;
    }
    if (slurm->tail_len + (size_t)n > TAIL_BYTES - 1) {
        memmove(slurm->tail, slurm->tail + TAIL_BYTES / 2, TAIL_BYTES / 2);
        slurm->tail_len = slurm->tail_len > TAIL_BYTES / 2 ? slurm->tail_len - TAIL_BYTES / 2 : 0;
    }
    memcpy(slurm->tail + slurm->tail_len, bytes, (size_t)n);
    slurm->tail_len += (size_t)n;
    slurm->tail[slurm->tail_len] = '\0';
}

/* In what srun said last, the first error that is a reason and not only the end of a task; else the
 * first error, else the first line.  Without its newline. */
static void complaint(const struct slurm *slurm, char *out, size_t size)
{
    static const char mark[] = "error: ";
    const char *found = NULL;

    for (const char *at = slurm->tail; (at = strstr(at, mark)) != NULL;) {
        const char *text = at + strlen(mark), *task = strstr(text, ": task ");
        size_t len = strcspn(text, "\n");

        found = found == NULL ? text : found;
        at = text + len;
        if (task == NULL || task > at) {
            found = text;
            break;
        }
    }
    if (found == NULL)
        found = slurm->tail;
    (void)snprintf(out, size, "%.*s", (int)strcspn(found, "\n"), found);
    for (char *c = out; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || *c == 127)
            *c = '?';
}

static int spawn_srun(struct slurm *slurm, const char *const *argv, char **env, const int in[2],
                      const int out[2], struct ds_error *err)
{
    const struct ds_helper srun = {
        .program = "srun", .argv = argv, .env = env, .fd = {in[0], out[1], out[1], -1}};
    int rc = ds_helper_spawn(&slurm->pid, &srun);

    if (rc == 0)
        return 0;
    slurm->pid = 0;
    return ds_fail(err, -rc, "cannot start 'srun': %s", strerror(-rc));
}

static int start_srun(struct slurm *slurm, const char *const *argv, char **env, unsigned port,
                      struct ds_error *err)
{
    struct ds_invitation invitation = {.port = port};
    char line[DS_INVITATION_BYTES];
    int in[2] = {-1, -1}, out[2] = {-1, -1}, rc;

    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
        rc = ds_fail(err, errno, "cannot create a pipe: %s", strerror(errno));
    else
        rc = spawn_srun(slurm, argv, env, in, out, err);
    if (in[0] >= 0)
        (void)close(in[0]);
    if (out[1] >= 0)
        (void)close(out[1]);
    slurm->stdin_fd = in[1];
    if (rc == 0 && fcntl(out[0], F_SETFL, O_NONBLOCK) < 0)
        rc = ds_fail(err, errno, "a pipe: %s", strerror(errno));
    if (rc == 0)
        rc = ds_loop_add(slurm->base.args.loop, &slurm->output, out[0], EPOLLIN, err);
    if (rc != 0 && out[0] >= 0)
        (void)close(out[0]);
    if (rc != 0)
        return rc;
    memcpy(invitation.key, slurm->key, sizeof(slurm->key));
    ds_invitation_write(&invitation, line);
    rc = ds_fs_write_all(slurm->stdin_fd, line, strlen(line), err); /* fits into the pipe */
    sodium_memzero(line, sizeof(line));
    sodium_memzero(&invitation, sizeof(invitation));
    return rc;
}

/* The step: a key, a listener, and srun for all hosts that were booked. */
static int begin(struct slurm *slurm, struct ds_error *err)
{
    char agent[DS_MAX_PATH];
    const char *const *argv = NULL;
    const char **host;
    struct ds_arena arena;
    size_t n = 0;
    int port = 0, rc = sodium_init() < 0 ? ds_fail(err, EIO, "libsodium cannot be used here") : 0;

    ds_arena_init(&arena);
    if (rc == 0)
        rc = ds_path_join(agent, slurm->base.args.libexec, "dsrun-agent", err);
    host = ds_arena_alloc(&arena, slurm->door.expected, sizeof(*host));
    if (rc == 0 && host == NULL)
        rc = ds_fail(err, ENOMEM, "no memory for %zu hosts", slurm->door.expected);
    for (struct ds_remote *remote = slurm->door.waiting; rc == 0 && remote != NULL;
         remote = remote->next)
        host[n++] = remote->host->name;
    if (rc == 0)
        rc = ds_slurm_argv(&arena, host, n, agent, &slurm->base.args.srun, &argv, err);
    if (rc == 0) {
        port = ds_door_open(&slurm->door, slurm->base.args.loop, NULL, 0, err);
        rc = port < 0 ? port : 0;
    }
    if (rc == 0) {
        char **env = ds_slurm_environment(&arena);

        randombytes_buf(slurm->key, sizeof(slurm->key));
        rc = env == NULL ? ds_fail(err, ENOMEM, "no memory for an environment")
                         : start_srun(slurm, argv, env, (unsigned)port, err);
    }
    ds_arena_release(&arena);
    return rc;
}

/* --- the transport ---------------------------------------------------------------------------- */

static int slurm_open(struct ds_starter **starter, const struct ds_transport_args *args,
                      struct ds_error *err)
{
    struct slurm *slurm = calloc(1, sizeof(*slurm));

    if (slurm == NULL)
        return ds_fail(err, ENOMEM, "no memory to start agents");
    slurm->base = (struct ds_starter){.transport = &ds_transport_slurm, .args = *args};
    slurm->door = (struct ds_door){.key = slurm->key, .ops = args->ops};
    slurm->output = (struct ds_watch){.fd = -1, .ready = on_output, .user = slurm};
    slurm->stdin_fd = -1;
    *starter = &slurm->base;
    return 0;
}

static int slurm_start(struct ds_starter *starter, struct ds_remote *remote, struct ds_error *err)
{
    struct slurm *slurm = (struct slurm *)starter;

    (void)err;
    ds_door_expect(&slurm->door, remote);
    return 0;
}

/* srun is gone.  Agents see it at the end of their stdin, which slurmd owes them; to those that
 * speak on after a while it did not pass it on (srun was killed while the step began). */
static uint64_t mind_srun(struct slurm *slurm, uint64_t now_ns)
{
    if (slurm->hang_up_ns == 0 || now_ns < slurm->hang_up_ns)
        return slurm->hang_up_ns;
    slurm->hang_up_ns = 0;
    ds_door_hang_up(&slurm->door);
    return 0;
}

/* Of two times, of which 0 is never. */
static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static uint64_t slurm_tick(struct ds_starter *starter, uint64_t now_ns)
{
    struct slurm *slurm = (struct slurm *)starter;
    uint64_t start_ns = starter->args.start_ns;
    uint64_t due_ns;
    struct ds_error err = {0};
    char said[512];
    int rc = 0;

    if (!slurm->begun) {
        slurm->begun = true;
        rc = begin(slurm, &err);
        if (rc != 0)
            ds_door_give_up(&slurm->door, rc, &err);
    }
    due_ns = sooner(ds_door_tick(&slurm->door, now_ns), mind_srun(slurm, now_ns));
    if (slurm->door.waiting == NULL)
        return due_ns;
    complaint(slurm, said, sizeof(said));
    if (slurm->srun_ended) {
        rc = ds_fail(&err, EHOSTUNREACH, "srun could not start its agent%s%s",
                     said[0] == '\0' ? "" : ": ", said);
        ds_door_give_up(&slurm->door, rc, &err);
    } else if (start_ns != 0 && now_ns >= start_ns) {
        rc = ds_fail(&err, EHOSTUNREACH, "its agent did not connect in time%s%s",
                     said[0] == '\0' ? "" : "; srun says: ", said);
        ds_door_give_up(&slurm->door, rc, &err);
    }
    if (slurm->door.waiting != NULL && start_ns != 0 && (due_ns == 0 || start_ns < due_ns))
        due_ns = start_ns;
    return due_ns;
}

/* The agent ends with its connection; that all have ended is awaited in close(), with srun. */
static void slurm_finish(struct ds_starter *starter, struct ds_remote *remote, bool force)
{
    struct slurm *slurm = (struct slurm *)starter;

    (void)force;
    ds_door_finish(&slurm->door, remote);
}

/* srun ends when its tasks have; at the end of its stdin they do. */
static void end_srun(struct slurm *slurm)
{
    if (slurm->stdin_fd >= 0)
        (void)close(slurm->stdin_fd);
    if (slurm->pid <= 0)
        return;
    if (!ds_proc_ends(slurm->pid, STRAGGLE_MS)) {
        (void)kill(slurm->pid, SIGTERM);
        if (!ds_proc_ends(slurm->pid, PATIENCE_MS))
            (void)kill(slurm->pid, SIGKILL);
    }
    while (waitpid(slurm->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
}

static void slurm_close(struct ds_starter *starter)
{
    struct slurm *slurm = (struct slurm *)starter;
    int fd;

    if (slurm == NULL)
        return;
    ds_door_close(&slurm->door);
    end_srun(slurm);
    fd = slurm->output.fd;
    ds_loop_remove(starter->args.loop, &slurm->output);
    if (fd >= 0)
        (void)close(fd);
    sodium_memzero(slurm->key, sizeof(slurm->key));
    free(slurm);
}

const struct ds_transport ds_transport_slurm = {.name = "slurm",
                                                .open = slurm_open,
                                                .start = slurm_start,
                                                .tick = slurm_tick,
                                                .finish = slurm_finish,
                                                .close = slurm_close};
