/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * place.c - the contract is in place.h.
 */
#include "cli/place.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"
#include "cli/count.h"
#include "cli/fit.h"
#include "launcher/cores.h"
#include "launcher/hosts/hostlist.h"
#include "launcher/hosts/nodefile.h"
#include "launcher/hosts/slurm_env.h"
#include "launcher/remote/slurm.h"
#include "launcher/remote/transport.h"
#include "runtime/job.h"
#include "runtime/plugin.h"

enum { LIST_BYTES = 16 * 1024 * 1024 };

static void own_name(char out[HOST_NAME_MAX + 1])
{
    if (gethostname(out, HOST_NAME_MAX) != 0)
        memcpy(out, "localhost", sizeof("localhost"));
    out[HOST_NAME_MAX] = '\0';
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

/* The hosts named by the user, those of the allocation, or this machine.  Inside of Slurm's they
 * are its nodes unless another way is asked for. */
static int read_hosts(struct ds_cli_place *place, const struct ds_cli *cli, uint64_t slots,
                      const char *hostname, struct ds_error *err)
{
    const bool gpus = slots == 0 && !place->no_gpus;
    const struct ds_nodefile *file = NULL;
    const char *value;
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
        place->allocated = cli->hostfile == NULL;
        if (place->allocated)
            return read_allocation(place, &place->roster, &env, gpus, err);
        rc = ds_hostfile_load(&place->roster, cli->hostfile, err);
        return rc != 0 ? rc : check_allocated(place, &env, gpus, err);
    }
    if (cli->hostfile != NULL)
        return ds_hostfile_load(&place->roster, cli->hostfile, err);
    if (cli->via != DS_VIA_LOCAL && cli->via != DS_VIA_JOIN)
        file = ds_nodefile_here(&value);
    if (file == NULL)
        return add_this(&place->roster, cli, hostname, err);
    place->source = file->variable;
    place->allocated = true;
    rc = ds_nodefile_load(&place->roster, file, value, err);
    return ds_error_context(err, rc, "the hosts of this %s job, which '--via local' goes round",
                            file->scheduler);
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

    return host->spec->cpus != 0 ? host->spec->cpus : ds_cores_allowed(&set);
}

/* Cores that no thread computes on let a rank reduce gradients beside its backward pass.  All ranks
 * get as many: those of the host with the fewest for each. */
static void share_cores(struct ds_cli_place *place, unsigned threads)
{
    place->crowded = 0;
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

/* Slots that a host may have, whoever says how many it has. */
static uint32_t most_slots(const struct ds_host_spec *host)
{
    return host->max_slots != 0 ? host->max_slots : DS_MAX_SLOTS;
}

/* The GPUs of a host are known; without any it has one rank, as where nobody counts. */
static void take_count(struct ds_host_spec *host, uint32_t gpus)
{
    host->counted = true;
    host->slots = gpus == 0 ? 1 : gpus < most_slots(host) ? gpus : most_slots(host);
    host->open = gpus == 0;
}

/* Ranks on a host where neither hostfile, Slurm, options nor job say how many: one for each GPU, of
 * which this machine's are counted here. */
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
    if (rc == 0)
        take_count(host, place->gpus.count);
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

/* Hosts as the options want them, with `slots` ranks each; 0: as many as it has slots. */
static int select_and_build(const struct ds_cli *cli, uint64_t slots, struct ds_cli_place *place,
                            struct ds_error *err)
{
    const struct ds_placement_args args = {
        .nodes = cli->nodes, .least = cli->least_nodes, .up_to = place->allocated, .slots = slots};
    int rc = ds_roster_select(&place->roster, cli->include, cli->exclude, err);

    if (rc == 0)
        rc = ds_placement_build(&place->placement, &place->roster, &args, err);
    return rc == -EINVAL ? -EDOM : rc;
}

/* --- GPUs of other hosts ---------------------------------------------------------------------- */

static bool is_uncounted(const struct ds_host_spec *host)
{
    return host->open && !host->counted;
}

/* One rank on each host that would be used and whose GPUs decide how many it has; where slots were
 * chosen by number they do.  `slots` of the others is not changed. */
static uint32_t list_uncounted(const struct ds_cli *cli, const struct ds_cli_place *place,
                               struct ds_place *out)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < place->placement.places; i++) {
        const struct ds_place *at = &place->placement.place[i];
        bool chosen = cli->include != NULL && at->spec->chosen < at->spec->slots;

        if (is_uncounted(at->spec) && !chosen)
            out[n] =
                (struct ds_place){.host = at->host, .spec = at->spec, .first_rank = n, .ranks = 1};
        n += is_uncounted(at->spec) && !chosen;
    }
    return n;
}

/* Which hosts are used does not depend on how many slots they have but for a selection that leaves
 * a host none; so each may have any number until it has said its own. */
static int count_elsewhere(const struct ds_cli *cli, struct ds_cli_place *place, bool ask,
                           const char *hostname, struct ds_error *err)
{
    struct ds_roster *roster = &place->roster;
    struct ds_place *asked = NULL;
    uint32_t *gpus = NULL, n = 0;
    int rc;

    for (size_t i = 0; i < roster->hosts; i++)
        if (is_uncounted(&roster->host[i]))
            roster->host[i].slots = most_slots(&roster->host[i]);
    rc = select_and_build(cli, 1, place, err);
    if (rc == 0)
        rc = choose_transport(place, cli, hostname, err);
    if (rc == 0) {
        asked = ds_arena_alloc(&roster->arena, place->placement.places, sizeof(*asked));
        gpus = ds_arena_alloc(&roster->arena, place->placement.places, sizeof(*gpus));
        if (asked == NULL || gpus == NULL)
            rc = ds_fail(err, ENOMEM, "no memory for %u hosts", place->placement.places);
    }
    if (rc == 0)
        n = list_uncounted(cli, place, asked);
    if (n > 0 && !ask)
        place->uncounted = asked[0].host;
    if (n > 0 && ask)
        rc = ds_cli_count(cli, place, asked, n, gpus, err);
    for (size_t i = 0; i < roster->hosts; i++)
        if (is_uncounted(&roster->host[i]))
            roster->host[i].slots = 1;
    for (uint32_t i = 0; rc == 0 && ask && i < n; i++)
        take_count(ds_roster_find(roster, asked[i].host), gpus[i]);
    return rc;
}

static bool has_uncounted(const struct ds_cli_place *place)
{
    for (size_t i = 0; i < place->roster.hosts; i++)
        if (is_uncounted(&place->roster.host[i]))
            return true;
    return false;
}

/* --- all of it -------------------------------------------------------------------------------- */

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
        ds_log(DS_LOG_INFO, "%u host%s (%s%s%s): %s", placement->places,
               placement->places == 1 ? "" : "s", place->transport->name,
               place->source != NULL ? ", from " : "", place->source != NULL ? place->source : "",
               ds_buf_text(&text));
    ds_buf_release(&text);
    free(name);
}

/* What the user wants to give srun. */
static int check_srun(const struct ds_cli *cli, const struct ds_cli_place *place,
                      struct ds_error *err)
{
    int rc = 0;

    if (cli->srun_args > 0 && place->transport != &ds_transport_slurm)
        return ds_fail(err, EDOM, "'--srun-arg' is for srun, which starts no agents here");
    for (size_t i = 0; rc == 0 && i < cli->srun_args; i++)
        rc = ds_slurm_check(cli->srun_arg[i], err);
    return ds_error_context(err, rc == -EINVAL ? -EDOM : rc, "--srun-arg");
}

/* Into what is empty but for what counts GPUs. */
static int place_hosts(const struct ds_cli *cli, uint64_t slots, bool ask,
                       struct ds_cli_place *place, struct ds_error *err)
{
    char hostname[HOST_NAME_MAX + 1];
    int rc;

    own_name(hostname);
    place->srun = (struct ds_srun_more){.arg = cli->srun_arg, .count = cli->srun_args};
    rc = read_hosts(place, cli, slots, hostname, err);
    if (rc == 0)
        rc = check_srun(cli, place, err);
    if (rc == 0)
        rc = fill_slots(place, cli->slots != 0 ? cli->slots : slots, hostname, err);
    if (rc == 0 && place->count_gpus && has_uncounted(place))
        rc = count_elsewhere(cli, place, ask, hostname, err);
    if (rc == 0)
        rc = select_and_build(cli, cli->slots, place, err);
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
    rc = place_hosts(cli, slots, false, place, err);
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

/* As many hosts of MIN:MAX as the job can be divided among. */
static void choose_hosts(const struct ds_cli *cli, const struct ds_job *job,
                         struct ds_placement *placement)
{
    const struct ds_fit fit = ds_cli_fit(job);

    if (cli->least_nodes < cli->nodes)
        (void)!ds_placement_cut(placement, (uint32_t)cli->least_nodes, &fit);
}

int ds_cli_place(const struct ds_cli *cli, struct ds_job *job, bool ask, struct ds_cli_place *place,
                 struct ds_error *err)
{
    const struct ds_strings *vars = &job->launch.env;
    int rc;

    *place = (struct ds_cli_place){.no_gpus = without_gpus(job)};
    place->count_gpus = !place->no_gpus;
    ds_roster_init(&place->roster);
    rc = ds_cli_env(cli, vars->item, vars->count, &place->roster.arena, &place->env, err);
    if (rc == 0)
        rc = place_hosts(cli, job->launch.slots, ask, place, err);
    if (rc == 0)
        choose_hosts(cli, job, &place->placement);
    if (rc == 0)
        rc = check_once(place, err);
    if (rc == 0 && job->launch.device != DS_DEVICE_CPU)
        rc = ds_cli_place_devices(place, err);
    if (rc == 0)
        rc = ds_cli_fit_settle(&place->placement, job, err);
    if (rc == 0)
        share_cores(place, (unsigned)job->launch.threads);
    else
        ds_cli_place_release(place);
    return rc;
}

int ds_cli_place_spares(struct ds_cli_place *place, const struct ds_cli *cli,
                        const struct ds_job *job, struct ds_spares *spares, struct ds_error *err)
{
    const struct ds_spares_args args = {.least = (uint32_t)cli->least_nodes,
                                        .most = (uint32_t)cli->nodes,
                                        .slots = cli->slots,
                                        .fit = ds_cli_fit(job)};
    char hostname[HOST_NAME_MAX + 1];
    int rc = ds_spares_init(spares, &place->roster, &place->placement, &args, err);

    own_name(hostname);
    for (size_t i = 0; rc == 0 && i < place->roster.hosts; i++)
        if (place->transport == &ds_transport_local &&
            !ds_host_is_here(&place->roster.host[i], hostname))
            spares->host[i].failed = true;
    return rc;
}

int ds_cli_place_again(struct ds_cli_place *place, const struct ds_spares_change *change,
                       unsigned threads, struct ds_error *err)
{
    if (change->out > 0)
        share_cores(place, threads);
    return change->replaced + change->out > 0 && place->devices != NULL
               ? ds_cli_place_devices(place, err)
               : 0;
}

void ds_cli_place_release(struct ds_cli_place *place)
{
    ds_roster_release(&place->roster);
    sodium_memzero(place, sizeof(*place)); /* the key, too */
}
