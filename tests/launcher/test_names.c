/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_names.c - names that are looked up at once, slowly and never: nobody waits for another's.
 *
 * In place of getaddrinfo() stands a function that finds a loopback address, and that hangs in names
 * that begin with "slow" until it is let go.  Time is what tick() is told.
 */
#include <criterion/criterion.h>

#include <dirent.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "launcher/remote/names.h"
#include "tests/tempdir.h"

enum { MOST = 40, PATIENCE_MS = 30000, TURN_MS = 20 };

static struct ds_loop loop;
static struct ds_names *names;
static struct ds_name *name[MOST];
static int gate[2]; /* a byte lets one go */
static atomic_uint inside, most_inside;
static unsigned calls;

static int look(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **found)
{
    const struct addrinfo number = {.ai_socktype = hints->ai_socktype, .ai_flags = AI_NUMERICHOST};
    unsigned now;
    char byte;
    int rc = EAI_NONAME;

    if ((hints->ai_flags & AI_NUMERICHOST) != 0)
        return getaddrinfo(host, port, hints, found);
    now = atomic_fetch_add(&inside, 1) + 1;
    if (now > atomic_load(&most_inside))
        atomic_store(&most_inside, now);
    if (strncmp(host, "slow", 4) == 0)
        rc = read(gate[0], &byte, 1) == 1 ? EAI_AGAIN : EAI_SYSTEM;
    else if (strncmp(host, "fast", 4) == 0)
        rc = getaddrinfo("127.0.0.9", port, &number, found);
    (void)atomic_fetch_sub(&inside, 1);
    return rc;
}

static void on_done(void *user)
{
    cr_assert_eq(user, &loop);
    calls++;
}

static struct ds_names_args names_args(void)
{
    static const char nsswitch[] = "hosts: files dns\n", hosts[] = "10.9.8.7 slow-but-listed\n";

    return (struct ds_names_args){
        .loop = &loop,
        .done = on_done,
        .user = &loop,
        .nsswitch = tempdir_write("nsswitch.conf", nsswitch, sizeof(nsswitch) - 1),
        .hosts = tempdir_write("hosts", hosts, sizeof(hosts) - 1),
        .look = look};
}

static void setup(void)
{
    struct ds_names_args args;

    tempdir_make();
    args = names_args();
    atomic_store(&inside, 0);
    atomic_store(&most_inside, 0);
    calls = 0;
    cr_assert_eq(ds_loop_init(&loop, NULL), 0);
    cr_assert_eq(pipe(gate), 0);
    cr_assert_eq(ds_names_open(&names, &args, NULL), 0);
}

static void teardown(void)
{
    for (int i = 0; i < MOST; i++)
        ds_names_forget(names, name[i]);
    memset(name, 0, sizeof(name));
    ds_names_close(names);
    ds_loop_release(&loop);
    (void)close(gate[0]);
    (void)close(gate[1]);
    tempdir_remove();
}

TestSuite(names, .init = setup, .fini = teardown, .timeout = 60);

static void ask(int i, const char *host)
{
    struct ds_error err = {0};

    cr_assert_eq(ds_names_ask(names, host, 2222, &name[i], &err), 0, "%s", err.text);
}

/* 1 an address, 0 none yet, else what getaddrinfo() said. */
static int answer(int i)
{
    const struct addrinfo *found;
    int rc;

    if (!ds_names_answer(names, name[i], &rc, &found))
        return 0;
    cr_assert_eq(rc == 0, found != NULL);
    return rc == 0 ? 1 : rc;
}

static bool answered(int from, int to, int what)
{
    for (int i = from; i < to; i++)
        if (answer(i) != what)
            return false;
    return true;
}

static void wait_answers(int from, int to, int what)
{
    for (int ms = 0; !answered(from, to, what); ms += TURN_MS) {
        cr_assert_lt(ms, PATIENCE_MS, "no answers");
        cr_assert_eq(ds_loop_turn(&loop, TURN_MS, NULL), 0);
    }
}

static void wait_inside(unsigned count)
{
    for (int ms = 0; atomic_load(&inside) != count; ms++) {
        cr_assert_lt(ms, PATIENCE_MS, "%u threads look up, not %u", atomic_load(&inside), count);
        (void)usleep(1000);
    }
}

static void let_go(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(write(gate[1], "", 1), 1);
}

static unsigned threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    unsigned count = 0;

    cr_assert_not_null(tasks);
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;)
        count += entry->d_name[0] != '.';
    (void)closedir(tasks);
    return count;
}

Test(names, an_address_and_a_listed_name_need_no_thread)
{
    const struct addrinfo *found;
    int rc;

    ask(0, "10.1.2.3");
    ask(1, "::1");
    ask(2, "Slow-but-listed");
    cr_assert(answered(0, 3, 1));
    cr_assert(ds_names_answer(names, name[0], &rc, &found));
    cr_assert_eq(found->ai_family, AF_INET);
    cr_assert_eq(found->ai_socktype, SOCK_STREAM);
    cr_assert_eq(((const struct sockaddr_in *)(const void *)found->ai_addr)->sin_port, htons(2222));
    cr_assert_eq(atomic_load(&most_inside), 0);
    cr_assert_eq(ds_names_tick(names, ds_clock_mono_ns()), 0);
}

Test(names, quick_ones_share_a_thread)
{
    for (int i = 0; i < MOST - 1; i++)
        ask(i, "fast");
    ask(MOST - 1, "nobody");
    wait_answers(0, MOST - 1, 1);
    wait_answers(MOST - 1, MOST, EAI_NONAME);
    cr_assert_eq(atomic_load(&most_inside), 1);
    cr_assert_geq(calls, 1);
    ds_names_forget(names, name[0]);
    ask(0, "fast again");
    wait_answers(0, 1, 1);
    cr_assert_eq(atomic_load(&most_inside), 1);
}

Test(names, a_slow_one_does_not_keep_the_others)
{
    uint64_t due_ns;

    ask(0, "slow");
    wait_inside(1);
    for (int i = 1; i < 6; i++)
        ask(i, "fast");
    due_ns = ds_names_tick(names, 0);
    cr_assert_gt(due_ns, 0, "it wants to be called again");
    cr_assert(answered(0, 6, 0));
    (void)ds_names_tick(names, due_ns);
    wait_answers(1, 6, 1);
    cr_assert_eq(answer(0), 0);
    cr_assert_eq(ds_names_tick(names, ds_clock_mono_ns()), 0, "nobody waits for a thread");
    let_go(1);
    wait_answers(0, 1, EAI_AGAIN);
}

Test(names, there_is_a_limit_to_threads)
{
    for (int i = 0; i < MOST; i++)
        ask(i, "slow");
    for (uint64_t due_ns; (due_ns = ds_names_tick(names, 0)) != 0;)
        (void)ds_names_tick(names, due_ns);
    wait_inside(DS_NAMES_THREADS);
    let_go(MOST);
    wait_answers(0, MOST, EAI_AGAIN);
    cr_assert_eq(atomic_load(&most_inside), DS_NAMES_THREADS);
}

Test(names, forgotten_ones_are_not_looked_up)
{
    static const int gone[] = {1, 3, 5}; /* the first that waits, one between, the last */

    ask(0, "slow");
    wait_inside(1);
    for (int i = 1; i < 6; i++)
        ask(i, i % 2 == 1 ? "slower" : "fast");
    for (int i = 0; i < 3; i++) {
        ds_names_forget(names, name[gone[i]]);
        name[gone[i]] = NULL;
    }
    ask(6, "fast");
    let_go(1);
    wait_answers(0, 1, EAI_AGAIN);
    wait_answers(2, 3, 1);
    wait_answers(4, 5, 1);
    wait_answers(6, 7, 1);
    cr_assert_eq(atomic_load(&most_inside), 1);
}

Test(names, a_thread_that_hangs_outlives_everything)
{
    const struct ds_names_args args = names_args();
    unsigned with_it;

    ask(0, "slow");
    wait_inside(1);
    with_it = threads();
    ds_names_forget(names, name[0]);
    name[0] = NULL;
    ds_names_close(names);
    let_go(1);
    for (int ms = 0; threads() == with_it; ms++) {
        cr_assert_lt(ms, PATIENCE_MS, "the thread does not end");
        (void)usleep(1000);
    }
    wait_inside(0);
    cr_assert_eq(ds_names_open(&names, &args, NULL), 0);
}
