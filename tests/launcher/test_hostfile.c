/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_hostfile.c - both forms of the hostfile: what they mean, and every mistake at its place.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/hosts/roster.h"

static int parse(struct ds_roster *roster, const char *text, struct ds_error *err)
{
    ds_roster_init(roster);
    return ds_hostfile_parse(roster, "hosts", text, strlen(text), err);
}

/* "name/slots/port/user/address/devices ..." of every host. */
static void describe(const struct ds_roster *roster, char *out, size_t cap)
{
    size_t len = 0;

    out[0] = '\0';
    for (size_t i = 0; i < roster->hosts && len < cap; i++) {
        const struct ds_host_spec *host = &roster->host[i];

        len += (size_t)snprintf(out + len, cap - len, "%s%s/%u/%u/%s/%s/%u", i > 0 ? " " : "",
                                host->name, host->slots, host->port,
                                host->user != NULL ? host->user : "-",
                                host->address != NULL ? host->address : "-", host->devices);
    }
}

Test(hostfile, read)
{
    static const struct {
        const char *text, *want;
    } table[] = {
        {"worker-0 slots=4\nworker-1 slots=2", "worker-0/4/0/-/-/0 worker-1/2/0/-/-/0"},
        {"# a comment\n\n  a\t slots=1   # more\r\n b\n", "a/1/0/-/-/0 b/0/0/-/-/0"},
        {"a slots=8 user=train port=2222 address=10.0.0.7", "a/8/2222/train/10.0.0.7/0"},
        {"a slots=2 max_slots=4\nb max-slots=2 # of Open MPI", "a/2/0/-/-/0 b/0/0/-/-/0"},
        {"n[1-3] slots=2", "n1/2/0/-/-/0 n2/2/0/-/-/0 n3/2/0/-/-/0"},
        {"n[08-10,2]x", "n08x/0/0/-/-/0 n09x/0/0/-/-/0 n10x/0/0/-/-/0 n2x/0/0/-/-/0"},
        {"hosts: [a, b]", "a/0/0/-/-/0 b/0/0/-/-/0"},
        {"defaults: {slots: 8, user: train, port: 22}\nhosts:\n  - node[01-02]\n"
         "  - {name: big, slots: 4, address: 10.0.0.7, devices: [0, 1, 2, 3]}\n",
         "node01/8/22/train/-/0 node02/8/22/train/-/0 big/4/22/train/10.0.0.7/4"},
        {"# yaml\n---\nhosts:\n- {name: a, devices: [1, 3]}\n", "a/2/0/-/-/2"},
        {"{hosts: [x]}", "x/0/0/-/-/0"},
        {"\xef\xbb\xbf"
         "a slots=1\r\nb slots=2\r\n",
         "a/1/0/-/-/0 b/2/0/-/-/0"},
        {"\xef\xbb\xbfhosts: [x]\r\ndefaults: {slots: 2}\r\n", "x/2/0/-/-/0"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_roster roster;
        struct ds_error err = {0};
        char got[512];

        cr_assert_eq(parse(&roster, table[i].text, &err), 0, "row %zu: %s", i, err.text);
        describe(&roster, got, sizeof(got));
        cr_assert_str_eq(got, table[i].want, "row %zu", i);
        ds_roster_release(&roster);
    }
}

static const struct {
    const char *text, *want; /* what the message contains */
} mistakes[] = {
    {"", "hosts:1:1: no host"},
    {"# nothing\n\n", "hosts:1:1: no host"},
    {"a\nb\na\n", "hosts:3:1: host 'a' is named twice"},
    {"a\nn[1-2]\n  n2", "hosts:3:3: host 'n2' is named twice"},
    {"a slots=0", "hosts:1:3: slots must be a number from 1 to 1024, not '0'"},
    {"a slots=1025", "hosts:1:3: slots must be"},
    {"a slots=-1", "hosts:1:3: slots must be"},
    {"a slots=1x", "hosts:1:3: slots must be"},
    {"a slots=99999999999999999999", "hosts:1:3: slots must be"},
    {"a slots=", "hosts:1:3: expected key=value"},
    {"a slots", "hosts:1:3: expected key=value"},
    {"a max_slots=0", "hosts:1:3: max_slots must be a number from 1 to 1024, not '0'"},
    {"a max-slots=x", "hosts:1:3: max-slots must be a number from 1 to 1024, not 'x'"},
    {"a slots=3 max_slots=2", "hosts:1:11: slots are 3, above max_slots, which are 2"},
    {"a max-slots=2 slots=3", "hosts:1:15: slots are 3, above max_slots, which are 2"},
    {"a max_slots=2 max-slots=2", "hosts:1:15: named twice on one line: 'max-slots'"},
    {"a slots=1 slots=2", "hosts:1:11: named twice on one line"},
    {"a port=1 user=x port=1", "hosts:1:17: named twice on one line: 'port'"},
    {"a user=x user=x", "hosts:1:10: named twice on one line: 'user'"},
    {"a address=x address=x", "hosts:1:13: named twice on one line: 'address'"},
    {"a\n  b:8", "hosts:2:3: 'b:8' is written 'b slots=8'"},
    {"b:8 slots=2", "hosts:1:1: 'b:8' is written 'b slots=8'"},
    {"me@b slots=2", "hosts:1:1: 'me@b' is written 'b user=me'"},
    {"fe80::1x", "hosts:1:1: 'fe80::1x' is not a host name"},
    {"ok\na  port=0", "hosts:2:4: port must be a number"},
    {"a port=65536", "hosts:1:3: port must be a number"},
    {"a slot=4", "hosts:1:3: unknown key 'slot', did you mean 'slots'?"},
    {"a prot=4", "hosts:1:3: unknown key 'prot', did you mean 'port'?"},
    {"a gpus=4",
     "hosts:1:3: unknown key 'gpus', did you mean 'slots', the ranks of a host, one for each GPU?"},
    {"a addr=b", "hosts:1:3: unknown key 'addr', did you mean 'address'?"},
    {"a colour=red", "hosts:1:3: unknown key 'colour': known are slots, user, port and address"},
    {"a b", "hosts:1:3: expected key=value"},
    {"a/b", "hosts:1:1: 'a/b' is not a host name"},
    {"a;rm", "hosts:1:1: 'a;rm' is not a host name"},
    {"$(x)", "hosts:1:1: '$(x)' is not a host name"},
    {"\033[1m", "hosts:1:1"},
    {"n[1-", "hosts:1:1: 'n[1-' has a bad range"},
    {"n[]", "hosts:1:1: 'n[]' has a bad range"},
    {"n[3-1]", "hosts:1:1: 'n[3-1]' has a bad range"},
    {"n[1-2", "bad range"},
    {"n[1,]", "bad range"},
    {"n[a-b]", "bad range"},
    {"n[1-2][3-", "bad range"},
    {"n[1-300][1-300]", "names more than 65536 hosts"},
    {"n[1][1][1][1][1]", "more than 4 ranges"},
    {"n[1-99999]", "names more than 65536 hosts"},
    {"n[1-999999999]", "names more than 65536 hosts"},
    {"n[1-9999999999]", "bad range"},
    {"n[1-65536]\nm", "hosts:2:1: more than 65536 hosts"},
    {"n[1-2] address=10.0.0.1", "2 hosts cannot have one address"},
    {"hosts: []", "no host"},
    {"hosts: 3", "hosts:1:8: 'hosts' must be a list"},
    {"host: [a]", "hosts:1:1: unknown key 'host', did you mean 'hosts'?"},
    {"wat: [a]", "hosts:1:1: unknown key 'wat': known are hosts and defaults"},
    {"defaults: {slots: 1}", "hosts:1:1: 'hosts' must be a list"},
    {"hosts:\n  - {slots: 2}", "hosts:2:5: a host without 'name'"},
    {"hosts:\n  - {name: a, slots: 0}", "hosts:2:22: 'slots' must be a number from 1 to 1024"},
    {"hosts:\n  - {name: a, slots: \"2\"}", "hosts:2:22: 'slots' must be a number"},
    {"hosts:\n  - {name: a, port: 99999}", "'port' must be a number from 1 to 65535"},
    {"hosts:\n  - {name: a, slot: 2}", "hosts:2:15: unknown key 'slot', did you mean 'slots'?"},
    {"hosts:\n  - {name: a, gpus: 2}", "unknown key 'gpus', did you mean 'slots', the ranks"},
    {"hosts:\n  - {name: a, wat: 2}",
     "unknown key 'wat': known are name, slots, user, port, address and devices"},
    {"defaults: {addr: x}\nhosts: [a]", "hosts:1:12: unknown key 'addr': known are slots, user"},
    {"hosts:\n  - {name: a, devices: 3}", "hosts:2:24: 'devices' must be a list"},
    {"hosts:\n  - {name: a, devices: [0, 2, 0]}", "hosts:2:31: device 0 is named twice"},
    {"hosts:\n  - {name: a, devices: [x]}", "hosts:2:25: 'device' must be a number from 0"},
    {"hosts:\n  - {name: [a]}", "hosts:2:12: 'name' must be text"},
    {"hosts:\n  - {name: ~}", "'name' must be text"},
    {"hosts:\n  - [a]", "hosts:2:5: expected a map of keys, found a list"},
    {"hosts: [a, a]", "hosts:1:12: host 'a' is named twice"},
    {"hosts: [\"a b\"]", "hosts:1:9: 'a b' is not a host name"},
    {"defaults: {name: x}\nhosts: [a]", "hosts:1:12: unknown key 'name': known are slots"},
    {"defaults: 3\nhosts: [a]", "hosts:1:11: expected a map"},
    {"- a\n- b", "hosts:1:1: a hostfile is a map"},
    {"hosts: [a", "hosts:"},
    {"hosts: [a]\nhosts: [b]", "hosts:2:1"},
    {"hosts: [&x a, *x]", "hosts:1:9"},
};

Test(hostfile, every_mistake_has_its_place)
{
    for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
        struct ds_roster roster;
        struct ds_error err = {0};
        int rc = parse(&roster, mistakes[i].text, &err);

        cr_assert_eq(rc, -EINVAL, "row %zu '%s': %d", i, mistakes[i].text, rc);
        cr_assert(strstr(err.text, mistakes[i].want) != NULL, "row %zu '%s': %s", i,
                  mistakes[i].text, err.text);
        ds_roster_release(&roster);
    }
}

Test(hostfile, hostile_bytes)
{
    char *large = calloc(1, DS_MAX_YAML_BYTES + 2);
    char name[DS_MAX_HOST_NAME + 2];
    struct ds_roster roster;

    memset(name, 'a', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    cr_assert_eq(parse(&roster, name, NULL), -EINVAL, "a name of %zu bytes", strlen(name));
    ds_roster_release(&roster);
    cr_assert_eq(parse(&roster, name + 1, NULL), 0);
    ds_roster_release(&roster);
    ds_roster_init(&roster);
    cr_assert_eq(ds_hostfile_parse(&roster, "hosts", "a\0b", 3, NULL), -EINVAL);
    memset(large, 'a', DS_MAX_YAML_BYTES + 1);
    cr_assert_eq(ds_hostfile_parse(&roster, "hosts", large, DS_MAX_YAML_BYTES + 1, NULL), -EINVAL);
    ds_roster_release(&roster);
    free(large);
}

Test(hostfile, many_hosts)
{
    struct ds_roster roster;

    cr_assert_eq(parse(&roster, "n[00001-65536] slots=8", NULL), 0);
    cr_assert_eq(roster.hosts, 65536);
    cr_assert_str_eq(ds_roster_find(&roster, "n54321")->name, "n54321");
    cr_assert_null(ds_roster_find(&roster, "n65537"));
    ds_roster_release(&roster);
}

Test(hostfile, missing_is_an_error)
{
    struct ds_roster roster;
    struct ds_error err = {0};

    ds_roster_init(&roster);
    cr_assert_eq(ds_hostfile_load(&roster, "/nonexistent/hosts", &err), -ENOENT);
    cr_assert(strstr(err.text, "/nonexistent/hosts") != NULL);
    ds_roster_release(&roster);
}

Test(hostfile, here)
{
    static const struct {
        const char *name, *address;
        bool here;
    } table[] = {
        {"localhost", NULL, true},  {"127.0.0.1", NULL, true}, {"me", NULL, true},
        {"me.lan", NULL, true},     {"you", NULL, false},      {"mee", NULL, false},
        {"you", "127.0.0.1", true}, {"me", "10.0.0.1", false}, {"::1", NULL, true},
        {"me.other", NULL, true},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_host_spec host = {.name = table[i].name, .address = table[i].address};

        cr_assert_eq(ds_host_is_here(&host, "me"), table[i].here, "row %zu", i);
    }
    cr_assert(ds_host_is_here(&(struct ds_host_spec){.name = "me"}, "me.lan"));
    cr_assert(!ds_host_is_here(&(struct ds_host_spec){.name = "me.x"}, "me.lan"));
}
