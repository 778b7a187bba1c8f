/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * spawn.c - the contract is in spawn.h.
 */
#include "launcher/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/fsio.h"
#include "launcher/cores.h"
#include "launcher/program.h"

enum { OWN_VARS = 16, FDS_PER_RANK = 8, FDS_OWN = 64, FD_SAFE = 32 };

/* The same descriptor, out of the way of the numbers that the child uses. */
static int safe_fd(int fd)
{
    int safe;

    if (fd < 0 || fd >= FD_SAFE)
        return fd;
    safe = fcntl(fd, F_DUPFD_CLOEXEC, FD_SAFE);
    (void)close(fd);
    return safe;
}

/* The value of PATH that the ranks will have. */
static const char *rank_path(const struct ds_spec *spec)
{
    for (size_t i = spec->envc; i > 0; i--)
        if (strncmp(spec->env[i - 1], "PATH=", 5) == 0)
            return spec->env[i - 1] + 5;
    return getenv("PATH");
}

/* A worker, which has a link, lies beside the agent; any other program where programs lie.  What is
 * missing is remembered for the ranks to say. */
static int find_program(struct ds_spawn *spawn, const char *exe_dir, struct ds_error *err)
{
    const struct ds_spec *spec = spawn->spec;
    const char *name = spec->argv[0];

    if (ds_program_cwd(spawn->cwd, spec->cwd, &spawn->problem) != 0)
        return 0;
    if (spec->link && strchr(name, '/') == NULL)
        return ds_path_join(spawn->program, exe_dir[0] != '\0' ? exe_dir : ".", name, err);
    spawn->no_program = ds_program_find(spawn->program, name, spawn->cwd, rank_path(spec),
                                        &spawn->problem) == -ENOENT;
    return 0;
}

/* Room for the descriptors of many ranks; the ranks get the old limit back. */
static void raise_file_limit(struct ds_spawn *spawn)
{
    rlim_t need = (rlim_t)spawn->spec->ranks * FDS_PER_RANK + FDS_OWN;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &spawn->files) != 0 || spawn->files.rlim_cur >= need)
        return;
    limit = spawn->files;
    limit.rlim_cur = need < limit.rlim_max ? need : limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit); /* else a rank says that it ran out */
}

int ds_spawn_init(struct ds_spawn *spawn, const struct ds_spec *spec, const char *exe_dir,
                  struct ds_error *err)
{
    int rc;

    *spawn = (struct ds_spawn){.spec = spec, .shm_fd = -1, .null_fd = -1, .cgroup_fd = -1};
    rc = find_program(spawn, exe_dir, err);
    if (rc != 0)
        return rc;
    raise_file_limit(spawn);
    spawn->null_fd = safe_fd(open("/dev/null", O_RDWR | O_CLOEXEC));
    if (spawn->null_fd < 0)
        return ds_fail(err, errno, "cannot open '/dev/null': %s", strerror(errno));
    if (spec->link) {
        spawn->shm_fd = safe_fd(memfd_create("dsrun", MFD_CLOEXEC));
        if (spawn->shm_fd < 0)
            return ds_fail(err, errno, "cannot create shared memory: %s", strerror(errno));
    }
    spawn->threads =
        ds_cores_per_rank(ds_cores_allowed(&spawn->allowed), spec->ranks, spec->threads);
    return 0;
}

void ds_spawn_release(struct ds_spawn *spawn)
{
    if (spawn->spec == NULL)
        return;
    if (spawn->shm_fd >= 0)
        (void)close(spawn->shm_fd);
    if (spawn->null_fd >= 0)
        (void)close(spawn->null_fd);
    *spawn = (struct ds_spawn){.shm_fd = -1, .null_fd = -1, .cgroup_fd = -1};
}

/* --- environment ------------------------------------------------------------------------------ */

struct env_list {
    const char **item; /* NULL-terminated */
    size_t count;
};

/* Set NAME=VALUE; an earlier entry of that name is replaced. */
static void env_set(struct env_list *env, const char *entry)
{
    size_t name = (size_t)(strchr(entry, '=') - entry) + 1;

    for (size_t i = 0; i < env->count; i++) {
        if (strncmp(env->item[i], entry, name) == 0) {
            env->item[i] = entry;
            return;
        }
    }
    env->item[env->count++] = entry;
}

static bool is_set(const struct ds_spec *spec, const char *name)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < spec->envc; i++)
        if (strncmp(spec->env[i], name, len) == 0 && spec->env[i][len] == '=')
            return true;
    return getenv(name) != NULL;
}

/* What torchrun sets; returns how many. */
static size_t gather_env(const struct ds_spawn *spawn, unsigned local, unsigned cores,
                         struct ds_arena *arena, const char **own)
{
    const struct ds_spec *spec = spawn->spec;
    size_t n = 0;

    own[n++] = ds_arena_printf(arena, "GROUP_RANK=%u", spec->node);
    own[n++] = ds_arena_printf(arena, "GROUP_WORLD_SIZE=%u", spec->nodes);
    own[n++] = ds_arena_printf(arena, "ROLE_RANK=%u", spec->first_rank + local);
    own[n++] = ds_arena_printf(arena, "ROLE_WORLD_SIZE=%u", spec->world);
    own[n++] = ds_arena_printf(arena, "MASTER_ADDR=%s", spawn->meet.address);
    own[n++] = ds_arena_printf(arena, "MASTER_PORT=%u", (unsigned)spawn->meet.port);
    if (!is_set(spec, "OMP_NUM_THREADS"))
        own[n++] = ds_arena_printf(arena, "OMP_NUM_THREADS=%u", cores);
    return n;
}

static int build_env(const struct ds_spawn *spawn, unsigned local, const cpu_set_t *cores,
                     struct ds_arena *arena, const char ***out)
{
    const struct ds_spec *spec = spawn->spec;
    char text[DS_CORES_TEXT];
    const char *own[OWN_VARS];
    size_t owns = 0, base = 0;
    struct env_list env = {0};

    while (environ[base] != NULL)
        base++;
    ds_cores_text(cores, text);
    own[owns++] = ds_arena_printf(arena, "RANK=%u", spec->first_rank + local);
    own[owns++] = ds_arena_printf(arena, "WORLD_SIZE=%u", spec->world);
    own[owns++] = ds_arena_printf(arena, "LOCAL_RANK=%u", local);
    own[owns++] = ds_arena_printf(arena, "LOCAL_WORLD_SIZE=%u", spec->ranks);
    own[owns++] = ds_arena_printf(arena, "NODE_RANK=%u", spec->node);
    own[owns++] = ds_arena_printf(arena, "DSRUN_CORES=%s", text);
    if (spec->link) {
        own[owns++] = ds_arena_printf(arena, "DSRUN_LINK_FD=%d", DS_SPAWN_LINK_FD);
        own[owns++] = ds_arena_printf(arena, "DSRUN_SHM_FD=%d", DS_SPAWN_SHM_FD);
    }
    if (spec->gather)
        owns += gather_env(spawn, local, (unsigned)CPU_COUNT(cores), arena, own + owns);
    env.item = ds_arena_alloc(arena, base + owns + spec->envc + 1, sizeof(*env.item));
    if (env.item == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < base; i++)
        env.item[env.count++] = environ[i];
    for (size_t i = 0; i < owns; i++) {
        if (own[i] == NULL)
            return -ENOMEM;
        env_set(&env, own[i]);
    }
    for (size_t i = 0; i < spec->envc; i++)
        env_set(&env, spec->env[i]);
    *out = env.item;
    return 0;
}

/* --- the child -------------------------------------------------------------------------------- */

struct child { /* all that exec needs, built before fork */
    const struct ds_spawn *spawn;
    const char **env;
    cpu_set_t cores;
    int memory_node;                             /* -1: any */
    int in_fd, out_fd, err_fd, link_fd, exec_fd; /* all at FD_SAFE or above */
    pid_t parent;
};

/* The child's end of the exec pipe carries the errno; exec closes it. */
static _Noreturn void child_fail(const struct child *child)
{
    int code = errno;
    ssize_t n = write(child->exec_fd, &code, sizeof(code));

    (void)n;
    _exit(code == ENOENT ? 127 : 126); /* as shells do */
}

static void child_signals(const struct ds_spawn *spawn)
{
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++)
        (void)signal(sig, SIG_DFL); /* fails for KILL and STOP, rightly */
    if (spawn->shielded)
        (void)signal(SIGUSR1, SIG_IGN);
    if (spawn->shielded && spawn->spec->link)
        (void)signal(SIGTERM, SIG_IGN);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void child_main(const struct child *child)
{
    const struct ds_spawn *spawn = child->spawn;
    const struct ds_spec *spec = spawn->spec;

    if (spawn->cgroup_fd >= 0) { /* before anything else is there to be left outside */
        ssize_t n = write(spawn->cgroup_fd, "0", 1);

        (void)n; /* a group that was removed under us: the job goes on without */
    }
    (void)setpgid(0, 0);
    child_signals(spawn);
    if (prctl(PR_SET_PDEATHSIG, (unsigned long)SIGKILL, 0UL, 0UL, 0UL) != 0)
        child_fail(child);
    if (getppid() != child->parent) /* it died before the line above */
        _exit(127);
    if (dup2(child->in_fd, STDIN_FILENO) < 0 || dup2(child->out_fd, STDOUT_FILENO) < 0 ||
        dup2(child->err_fd, STDERR_FILENO) < 0)
        child_fail(child);
    if (spec->link &&
        (dup2(child->link_fd, DS_SPAWN_LINK_FD) < 0 || dup2(spawn->shm_fd, DS_SPAWN_SHM_FD) < 0))
        child_fail(child);
    (void)syscall(SYS_close_range, spec->link ? DS_SPAWN_SHM_FD + 1U : STDERR_FILENO + 1U, ~0U,
                  4U /* CLOSE_RANGE_CLOEXEC: whatever the agent itself inherited */);
    (void)setrlimit(RLIMIT_NOFILE, &spawn->files);
    (void)sched_setaffinity(0, sizeof(child->cores), &child->cores);
    ds_bind_memory(child->memory_node);
    if (spawn->cwd[0] != '\0' && chdir(spawn->cwd) != 0)
        child_fail(child);
    (void)execve(spawn->program, (char *const *)(uintptr_t)spec->argv,
                 (char *const *)(uintptr_t)child->env);
    child_fail(child);
}

/* --- the parent ------------------------------------------------------------------------------- */

struct pair {
    int here, there;
};

static void close_pair(struct pair *pair)
{
    if (pair->here >= 0)
        (void)close(pair->here);
    if (pair->there >= 0)
        (void)close(pair->there);
    *pair = (struct pair){-1, -1};
}

static int make_pair(struct pair *pair, bool both_ways)
{
    int fd[2];
    int rc =
        both_ways ? socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) : pipe2(fd, O_CLOEXEC);

    if (rc != 0)
        return -errno;
    *pair = (struct pair){.here = safe_fd(fd[0]), .there = safe_fd(fd[1])};
    if (pair->here >= 0 && pair->there >= 0 && fcntl(pair->here, F_SETFL, O_NONBLOCK) == 0)
        return 0;
    close_pair(pair);
    return -EMFILE;
}

enum { PAIR_OUT, PAIR_ERR, PAIR_EXEC, PAIR_LINK, PAIRS };

static int make_pairs(struct pair *pair, bool link)
{
    int rc = 0;

    for (int i = 0; i < PAIRS; i++)
        pair[i] = (struct pair){-1, -1};
    for (int i = 0; i < PAIRS && rc == 0; i++)
        if (i != PAIR_LINK || link)
            rc = make_pair(&pair[i], i == PAIR_LINK);
    return rc;
}

static int fork_child(struct child *child, const struct pair *pair, pid_t *pid)
{
    child->out_fd = pair[PAIR_OUT].there;
    child->err_fd = pair[PAIR_ERR].there;
    child->exec_fd = pair[PAIR_EXEC].there;
    child->link_fd = pair[PAIR_LINK].there;
    child->parent = getpid();
    *pid = fork();
    if (*pid == 0)
        child_main(child);
    if (*pid < 0)
        return -errno;
    (void)setpgid(*pid, *pid); /* on both sides, so that neither can be late */
    return 0;
}

static void choose_cores(struct child *child, unsigned local)
{
    const struct ds_spawn *spawn = child->spawn;
    const struct ds_bound *bound = spawn->bound;

    if (bound == NULL) {
        ds_cores_share(&spawn->allowed, spawn->threads, local, &child->cores);
        return;
    }
    child->cores = bound->rank[local].cores;
    if (bound->memory)
        child->memory_node = bound->rank[local].node;
}

int ds_spawn_rank(const struct ds_spawn *spawn, unsigned local, struct ds_spawned *out,
                  struct ds_error *err)
{
    struct child child = {.spawn = spawn, .memory_node = -1, .in_fd = spawn->null_fd};
    struct pair pair[PAIRS];
    struct ds_arena arena;
    pid_t pid = -1;
    int rc;

    if (spawn->problem.code != 0)
        return ds_fail(err, spawn->no_program ? ENOENT : ECANCELED, "%s", spawn->problem.text);
    ds_arena_init(&arena);
    choose_cores(&child, local);
    rc = make_pairs(pair, spawn->spec->link);
    if (rc == 0)
        rc = build_env(spawn, local, &child.cores, &arena, &child.env);
    if (rc == 0)
        rc = fork_child(&child, pair, &pid);
    ds_arena_release(&arena);
    if (rc != 0) {
        for (int i = 0; i < PAIRS; i++)
            close_pair(&pair[i]);
        return ds_fail(err, -rc, "cannot start a process: %s", strerror(-rc));
    }
    for (int i = 0; i < PAIRS; i++)
        if (pair[i].there >= 0)
            (void)close(pair[i].there);
    *out = (struct ds_spawned){.pid = pid,
                               .out_fd = pair[PAIR_OUT].here,
                               .err_fd = pair[PAIR_ERR].here,
                               .link_fd = pair[PAIR_LINK].here,
                               .exec_fd = pair[PAIR_EXEC].here};
    return 0;
}
