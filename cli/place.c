/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * place.c - the contract is in place.h.
 */
#include "cli/place.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "launcher/bind.h"
#include "launcher/cores.h"
#include "launcher/hosts/hostlist.h"
#include "launcher/hosts/slurm_env.h"
#include "launcher/remote/slurm.h"
#include "launcher/remote/transport.h"
#include "launcher/spec.h"
#include "runtime/job.h"
#include "runtime/plugin.h"

enum { LIST_BYTES = 16 * 1024 * 1024 };

static void own_name(char out[HOST_NAME_MAX + 1])
{
    if (gethostname(out, HOST_NAME_MAX) != 0)
        memcpy(out, "localhost", sizeof("localhost"));
    out[HOST_NAME_MAX] = '\0';
}

static unsigned allowed_cores(cpu_set_t *cores)
{
    CPU_ZERO(cores);
    if (sched_getaffinity(0, sizeof(*cores), cores) != 0)
        CPU_SET(0, cores);
    return (unsigned)CPU_COUNT(cores);
}

/* The nodes of the allocation; `gpus`: slots may follow from their GPUs. */
static int read_allocation(const struct ds_cli_place *place, struct ds_roster *roster,
                           const struct ds_slurm_env *env, bool gpus, struct ds_error *err)
{
    int rc = ds_slurm_env_parse(roster, env, err);

    if (rc == 0 && gpus)
        ds_slurm_env_use_gpus(roster, place->count_gpus);
    return rc;
}

/* Only nodes of the allocation can be used through it. */
static int check_allocated(const struct ds_cli_place *place, const struct ds_slurm_env *env,
                           bool gpus, struct ds_error *err)
{
    const struct ds_roster *roster = &place->roster;
    struct ds_roster allocated;
    int rc;

    ds_roster_init(&allocated);
    rc = read_allocation(place, &allocated, env, gpus, err);
    for (size_t i = 0; rc == 0 && i < roster->hosts; i++) {
        const struct ds_host_spec *node = ds_roster_find(&allocated, roster->host[i].name);

        if (node == NULL)
            rc = ds_fail(err, EINVAL,
                         "host '%s' is not in this Slurm allocation: %.200s; --via ssh or --via "
                         "local goes round Slurm",
                         roster->host[i].name, env->nodelist);
        else
            roster->host[i].cpus = node->cpus;
        if (rc == 0 && roster->host[i].slots == 0)
            roster->host[i].slots = node->slots;
    }
    ds_roster_release(&allocated);
    return rc;
}

/* This machine, by the name that a selection has for it, else by its own. */
static int add_this(struct ds_roster *roster, const struct ds_cli *cli, const char *hostname,
                    struct ds_error *err)
{
    const char *spec = cli->include != NULL ? cli->include : cli->exclude;
    struct ds_host_spec here = {0};
    char name[DS_MAX_HOST_NAME + 1];
    size_t count;

    if (spec != NULL && strcspn(spec, ":@") < sizeof(name)) {
        (void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(spec, ":@"), spec);
        here.name = name;
        if (ds_host_is_here(&here, hostname))
            hostname = name;
    }
    if (ds_range_count(hostname, &count, NULL) != 0 || count != 1)
        hostname = "localhost";
    return ds_roster_add(roster, hostname, &here, err);
}

/* The hosts named by the user, those of the allocation, or this machine.  Inside of an allocation
 * hosts are its nodes unless another way is asked for. */
static int read_hosts(struct ds_cli_place *place, const struct ds_cli *cli, uint64_t slots,
                      const char *hostname, struct ds_error *err)
{
    const bool gpus = slots == 0 && !place->no_gpus;
    struct ds_slurm_env env;
    bool inside = ds_slurm_env_get(&env);
    int rc;

    place->transport = &ds_transport_local;
    if (cli->via == DS_VIA_SLURM && !inside)
        return ds_fail(err, EDOM,
                       "'--via slurm': this is not inside an allocation (SLURM_JOB_ID is not set): "
                       "use sbatch or salloc");
    if (cli->via == DS_VIA_SLURM || (cli->via == DS_VIA_AUTO && inside)) {
        place->transport = &ds_transport_slurm;
        if (cli->hostfile == NULL)
            return read_allocation(place, &place->roster, &env, gpus, err);
        rc = ds_hostfile_load(&place->roster, cli->hostfile, err);
        return rc != 0 ? rc : check_allocated(place, &env, gpus, err);
    }
    if (cli->hostfile != NULL)
        return ds_hostfile_load(&place->roster, cli->hostfile, err);
    return add_this(&place->roster, cli, hostname, err);
}

static int check_local(const struct ds_cli_place *place, const char *hostname, struct ds_error *err)
{
    for (uint32_t i = 0; i < place->placement.places; i++)
        if (!ds_host_is_here(place->placement.place[i].spec, hostname))
            return ds_fail(err, EHOSTUNREACH, "host '%s' is not this machine: use --via ssh",
                           place->placement.place[i].host);
    return 0;
}

/* Ranks that train share memory on a host, so that a machine is one host to them. */
static int check_once(const struct ds_cli_place *place, struct ds_error *err)
{
    if (place->transport == &ds_transport_local && place->placement.places > 1)
        return ds_fail(err, EINVAL,
                       "hosts '%s' and '%s' are both this machine: name it once and "
                       "give it more slots",
                       place->placement.place[0].host, place->placement.place[1].host);
    return 0;
}

static bool is_address(const char *text)
{
    unsigned char raw[sizeof(struct in6_addr)];

    return inet_pton(AF_INET, text, raw) == 1 || inet_pton(AF_INET6, text, raw) == 1;
}

/* Where hosts come to, and with which key. */
static int read_join(struct ds_cli_place *place, const struct ds_cli *cli, struct ds_error *err)
{
    const char *listen = cli->join_listen != NULL ? cli->join_listen : "";
    int rc;

    if (cli->hostfile == NULL || cli->join_key == NULL)
        return ds_fail(err, EDOM,
                       "'--via join' needs '--hostfile', with the names by which hosts join, and "
                       "'--join-key'");
    rc = ds_join_at_parse(&place->join.at, listen, err);
    if (rc == 0 && place->join.at.address[0] != '\0' && !is_address(place->join.at.address))
        rc = ds_fail(err, EINVAL, "'%s' is no address", listen);
    if (rc != 0)
        return ds_error_context(err, rc == -EINVAL ? -EDOM : rc, "--join-listen");
    place->transport = &ds_transport_join;
    return ds_join_key_read(cli->join_key, place->join.key, err);
}

/* By themselves, hosts are reached over SSH unless there is but this machine. */
static int choose_transport(struct ds_cli_place *place, const struct ds_cli *cli,
                            const char *hostname, struct ds_error *err)
{
    bool here = true;

    for (uint32_t i = 0; i < place->placement.places; i++)
        here = here && ds_host_is_here(place->placement.place[i].spec, hostname);
    if (place->transport == &ds_transport_slurm)
        return 0;
    switch (cli->via) {
    case DS_VIA_SSH: place->transport = &ds_transport_ssh; return 0;
    case DS_VIA_OPENSSH: place->transport = &ds_transport_openssh; return 0;
    case DS_VIA_JOIN: return read_join(place, cli, err);
    case DS_VIA_SLURM:
    case DS_VIA_AUTO:
    case DS_VIA_LOCAL: break;
    }
    place->transport = &ds_transport_local;
    if (cli->via == DS_VIA_LOCAL || here)
        return check_local(place, hostname, err);
    place->transport = &ds_transport_ssh;
    return 0;
}

/* Cores of a host: what Slurm says, else as many as here. */
static unsigned cores_of(const struct ds_place *host)
{
    cpu_set_t set;

    return host->spec->cpus != 0 ? host->spec->cpus : allowed_cores(&set);
}

/* Cores that no thread computes on let a rank reduce gradients beside its backward pass.  All ranks
 * get as many: those of the host with the fewest for each. */
static void share_cores(struct ds_cli_place *place, unsigned threads)
{
    for (uint32_t i = 0; i < place->placement.places; i++) {
        const struct ds_place *host = &place->placement.place[i];
        unsigned computing = ds_cores_per_rank(cores_of(host), host->ranks, threads);
        unsigned cores = ds_cores_per_rank(cores_of(host), host->ranks, 0);

        if (i == 0 || computing < place->threads)
            place->threads = computing;
        if (i == 0 || cores < place->cores)
            place->cores = cores;
        if ((host->spec->cpus != 0 || place->transport == &ds_transport_local) &&
            threads > cores_of(host))
            place->crowded = cores_of(host);
    }
    if (place->cores < place->threads)
        place->cores = place->threads;
}

/* Ranks on a host where neither hostfile, Slurm, options nor job say how many: one for each GPU,
 * which are counted on this machine alone. */
static int assume_slots(struct ds_cli_place *place, struct ds_host_spec *host, const char *hostname,
                        struct ds_error *err)
{
    int rc = 0;

    host->slots = 1;
    host->open = true;
    if (!place->count_gpus || !ds_host_is_here(host, hostname) ||
        (place->transport == &ds_transport_slurm && place->roster.hosts > 1))
        return 0;
    if (!place->gpus.known)
        rc = ds_cli_gpus(place, &place->gpus, err);
    host->counted = true;
    if (rc == 0 && place->gpus.count > 0) {
        uint32_t most = host->max_slots != 0 ? host->max_slots : DS_MAX_SLOTS;

        host->slots = place->gpus.count < most ? place->gpus.count : most;
        host->open = false;
    }
    return rc;
}

/* Slots of the hosts of which nobody has said how many; 0: nobody says it now. */
static int fill_slots(struct ds_cli_place *place, uint64_t slots, const char *hostname,
                      struct ds_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < place->roster.hosts; i++) {
        struct ds_host_spec *host = &place->roster.host[i];

        if (host->slots == 0 && slots == 0)
            rc = assume_slots(place, host, hostname, err);
        else if (host->slots == 0)
            host->slots = (uint32_t)slots;
    }
    return rc;
}

/* Hosts, slots and ranks as the options want them. */
static int select_and_build(const struct ds_cli *cli, struct ds_cli_place *place,
                            struct ds_error *err)
{
    const struct ds_placement_args args = {.nodes = cli->nodes, .slots = cli->slots};
    int rc = ds_roster_select(&place->roster, cli->include, cli->exclude, err);

    if (rc == 0)
        rc = ds_placement_build(&place->placement, &place->roster, &args, err);
    return rc == -EINVAL ? -EDOM : rc;
}

/* --verbose: which hosts, and how they are reached. */
static void tell_hosts(const struct ds_cli_place *place)
{
    const struct ds_placement *placement = &place->placement;
    const char **name = calloc(placement->places, sizeof(*name));
    struct ds_buf text;

    ds_buf_init(&text, LIST_BYTES);
    for (uint32_t i = 0; name != NULL && i < placement->places; i++)
        name[i] = placement->place[i].host;
    if (name != NULL && ds_hostlist_print(name, placement->places, &text) == 0)
        ds_log(DS_LOG_INFO, "%u host%s (%s): %s", placement->places,
               placement->places == 1 ? "" : "s", place->transport->name, ds_buf_text(&text));
    ds_buf_release(&text);
    free(name);
}

/* Into what is empty but for what counts GPUs. */
static int place_hosts(const struct ds_cli *cli, uint64_t slots, struct ds_cli_place *place,
                       struct ds_error *err)
{
    char hostname[HOST_NAME_MAX + 1];
    int rc;

    own_name(hostname);
    rc = read_hosts(place, cli, slots, hostname, err);
    if (rc == 0)
        rc = fill_slots(place, cli->slots != 0 ? cli->slots : slots, hostname, err);
    if (rc == 0)
        rc = select_and_build(cli, place, err);
    if (rc == 0)
        rc = choose_transport(place, cli, hostname, err);
    if (rc == 0 && cli->verbose)
        tell_hosts(place);
    return rc;
}

int ds_cli_place_hosts(const struct ds_cli *cli, uint64_t slots, struct ds_cli_place *place,
                       struct ds_error *err)
{
    int rc;

    *place = (struct ds_cli_place){0};
    ds_roster_init(&place->roster);
    rc = place_hosts(cli, slots, place, err);
    if (rc == 0)
        share_cores(place, 0);
    else
        ds_cli_place_release(place);
    return rc;
}

/* A job that may do without GPUs does so where this dsrun was built without CUDA. */
static bool without_gpus(const struct ds_job *job)
{
    char path[DS_MAX_PATH];

    if (job->launch.device == DS_DEVICE_AUTO)
        return ds_cli_libexec(path, DS_PLUGIN_FILE, NULL) != 0 || access(path, R_OK) != 0;
    return job->launch.device == DS_DEVICE_CPU;
}

int ds_cli_place(const struct ds_cli *cli, const struct ds_job *job, struct ds_cli_place *place,
                 struct ds_error *err)
{
    const struct ds_strings *vars = &job->launch.env;
    int rc;

    *place = (struct ds_cli_place){.no_gpus = without_gpus(job)};
    place->count_gpus = !place->no_gpus;
    ds_roster_init(&place->roster);
    rc = ds_cli_env(cli, vars->item, vars->count, &place->roster.arena, &place->env, err);
    if (rc == 0)
        rc = place_hosts(cli, job->launch.slots, place, err);
    if (rc == 0)
        rc = check_once(place, err);
    if (rc == 0 && job->launch.device != DS_DEVICE_CPU)
        rc = ds_cli_place_devices(place, err);
    if (rc == 0)
        share_cores(place, (unsigned)job->launch.threads);
    else
        ds_cli_place_release(place);
    return rc;
}

int ds_cli_place_spares(struct ds_cli_place *place, struct ds_spares *spares, struct ds_error *err)
{
    char hostname[HOST_NAME_MAX + 1];
    int rc = ds_spares_init(spares, &place->roster, &place->placement, err);

    own_name(hostname);
    for (size_t i = 0; rc == 0 && i < place->roster.hosts; i++)
        if (place->transport == &ds_transport_local &&
            !ds_host_is_here(&place->roster.host[i], hostname))
            spares->host[i].failed = true;
    return rc;
}

void ds_cli_place_release(struct ds_cli_place *place)
{
    ds_roster_release(&place->roster);
    sodium_memzero(place, sizeof(*place)); /* the key, too */
}

/* What the agent of this machine will give to the ranks of a place; NULL: elsewhere that is for its
 * agent to say. */
static const struct ds_bound *bind_here(const struct ds_cli_place *place, uint32_t index,
                                        struct ds_arena *arena)
{
    const char *devices = place->devices != NULL ? place->devices[index] : NULL;
    const struct ds_bound *bound = NULL;
    struct ds_spec spec = {.ranks = place->placement.place[index].ranks, .no_gpus = place->no_gpus};
    cpu_set_t cores;

    if (place->transport != &ds_transport_local)
        return NULL;
    spec.env = ds_arena_alloc(arena, place->env.count + 1, sizeof(*spec.env));
    if (spec.env == NULL)
        return NULL;
    if (devices != NULL)
        spec.env[spec.envc++] = ds_arena_printf(arena, "CUDA_VISIBLE_DEVICES=%s", devices);
    if (devices != NULL && spec.env[0] == NULL)
        return NULL;
    for (size_t i = 0; i < place->env.count; i++)
        spec.env[spec.envc++] = place->env.item[i];
    (void)allowed_cores(&cores);
    return ds_bind_host(&bound, &spec, &cores, place->cores, arena, NULL) == 0 ? bound : NULL;
}

static const char *gpu_here(const struct ds_bound *bound, uint32_t local)
{
    int gpu = bound != NULL ? bound->rank[local].gpu : -1;

    return gpu >= 0 ? bound->topology.gpu[gpu].pci : NULL;
}

void ds_cli_place_print(const struct ds_cli_place *place, struct ds_buf *out)
{
    char text[DS_CORES_TEXT];
    struct ds_arena arena;

    ds_arena_init(&arena);
    for (uint32_t i = 0; i < place->placement.places; i++) {
        const struct ds_place *host = &place->placement.place[i];
        const struct ds_bound *bound = bind_here(place, i, &arena);

        for (uint32_t local = 0; local < host->ranks; local++) {
            const char *gpu = gpu_here(bound, local);

            (void)ds_buf_printf(out, "rank %u  host %s  slot %u  ", host->first_rank + local,
                                host->host, ds_placement_slot(host, local));
            if (bound == NULL) {
                (void)ds_buf_printf(out, "%u core%s\n", place->cores, place->cores == 1 ? "" : "s");
                continue;
            }
            ds_cores_text(&bound->rank[local].cores, text);
            (void)ds_buf_printf(out, "cores %s%s%s\n", text, gpu != NULL ? "  gpu " : "",
                                gpu != NULL ? gpu : "");
        }
    }
    ds_arena_release(&arena);
}

void ds_cli_place_json(const struct ds_cli_place *place, const char *key, struct ds_json *json)
{
    char text[DS_CORES_TEXT];
    struct ds_arena arena;

    ds_arena_init(&arena);
    ds_json_array(json, key);
    for (uint32_t i = 0; i < place->placement.places; i++) {
        const struct ds_place *host = &place->placement.place[i];
        const struct ds_bound *bound = bind_here(place, i, &arena);

        for (uint32_t local = 0; local < host->ranks; local++) {
            ds_json_object(json, NULL);
            ds_json_u64(json, "rank", host->first_rank + local);
            ds_json_string(json, "host", host->host);
            ds_json_u64(json, "slot", ds_placement_slot(host, local));
            ds_json_u64(json, "cores", place->cores);
            if (bound != NULL) {
                ds_cores_text(&bound->rank[local].cores, text);
                ds_json_string(json, "cpus", text);
            }
            if (gpu_here(bound, local) != NULL)
                ds_json_string(json, "gpu", gpu_here(bound, local));
            ds_json_end_object(json);
        }
    }
    ds_json_end_array(json);
    ds_arena_release(&arena);
}

int ds_cli_place_srun(const struct ds_cli_place *place, struct ds_buf *out, struct ds_error *err)
{
    const struct ds_placement *placement = &place->placement;
    char libexec[DS_MAX_PATH], agent[DS_MAX_PATH];
    const char *const *argv;
    struct ds_arena arena;
    const char **host;
    int rc;

    if (place->transport != &ds_transport_slurm)
        return 0;
    rc = ds_cli_libexec(libexec, "", err);
    ds_arena_init(&arena);
    host = ds_arena_alloc(&arena, placement->places, sizeof(*host));
    for (uint32_t i = 0; host != NULL && i < placement->places; i++)
        host[i] = placement->place[i].host;
    if (rc == 0)
        rc = ds_path_join(agent, libexec, "dsrun-agent", err);
    if (rc == 0)
        rc = host == NULL ? ds_fail(err, ENOMEM, "no memory for %u hosts", placement->places)
                          : ds_slurm_argv(&arena, host, placement->places, agent, &argv, err);
    for (size_t i = 0; rc == 0 && argv[i] != NULL; i++)
        (void)ds_buf_printf(out, "%s%s", i == 0 ? "" : " ", argv[i]);
    ds_arena_release(&arena);
    return rc;
}

int ds_cli_place_dry(const struct ds_cli_place *place,
                     void (*text)(const void *user, struct ds_buf *out),
                     void (*json)(const void *user, struct ds_json *out), const void *user)
{
    struct ds_error err = {0};
    struct ds_buf out, srun;
    struct ds_json object;
    int rc;

    ds_buf_init(&out, LIST_BYTES);
    ds_buf_init(&srun, LIST_BYTES);
    rc = ds_cli_place_srun(place, &srun, &err);
    if (json != NULL) {
        ds_json_init(&object, &out);
        ds_json_object(&object, NULL);
        json(user, &object);
        if (srun.len > 0)
            ds_json_string(&object, "srun", ds_buf_text(&srun));
        ds_json_end_object(&object);
    } else {
        text(user, &out);
        (void)ds_buf_puts(&out, ds_buf_text(&srun));
    }
    if (json != NULL || srun.len > 0)
        (void)ds_buf_puts(&out, "\n");
    if (rc == 0 && (out.failed || srun.failed))
        rc = ds_fail(&err, ENOMEM, "the placement is too long to print");
    if (rc == 0)
        rc = ds_fs_write_all(STDOUT_FILENO, ds_buf_text(&out), out.len, &err);
    ds_buf_release(&out);
    ds_buf_release(&srun);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    return rc == 0 ? DS_EXIT_OK : DS_EXIT_FAILURE;
}

/* As JSON. */
static void list_line(const char *key, const char *value, struct ds_buf *out)
{
    struct ds_json json;

    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    ds_json_string(&json, key, value);
    ds_json_end_object(&json);
    (void)ds_buf_puts(out, "\n");
}

int ds_cli_place_list(const struct ds_cli_place *place, bool as_json, struct ds_buf *out,
                      struct ds_error *err)
{
    struct ds_buf srun;
    int rc;

    for (uint32_t i = 0; i < place->placement.places; i++) {
        const char *host = place->placement.place[i].host;

        if (as_json)
            list_line("host", host, out);
        else
            (void)ds_buf_printf(out, "host %s\n", host);
    }
    ds_buf_init(&srun, LIST_BYTES);
    rc = ds_cli_place_srun(place, &srun, err);
    if (rc == 0 && srun.len > 0 && as_json)
        list_line("srun", ds_buf_text(&srun), out);
    else if (rc == 0 && srun.len > 0)
        (void)ds_buf_printf(out, "%s\n", ds_buf_text(&srun));
    if (rc == 0 && (srun.failed || out->failed))
        rc = ds_fail(err, ENOMEM, "the list of hosts is too long to print");
    ds_buf_release(&srun);
    return rc;
}
