/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_nodefile.c - the hosts of other batch systems' jobs: what is read, what is refused, and which
 * of several variables counts.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/hosts/nodefile.h"

/* "name/slots name/slots ..." */
static void show(const struct ds_roster *roster, char *out, size_t size)
{
    size_t len = 0;

    out[0] = '\0';
    for (size_t i = 0; i < roster->hosts && len < size; i++)
        len += (size_t)snprintf(out + len, size - len, "%s%s/%u", i == 0 ? "" : " ",
                                roster->host[i].name, roster->host[i].slots);
}

static const struct ds_nodefile *file_of(const char *variable)
{
    const struct ds_nodefile *file;
    size_t i = 0;

    while ((file = ds_nodefile_at(i)) != NULL && strcmp(file->variable, variable) != 0)
        i++;
    cr_assert_not_null(file, "no reader of %s", variable);
    return file;
}

static int parse(struct ds_roster *roster, const char *variable, const char *text,
                 struct ds_error *err)
{
    ds_roster_init(roster);
    return ds_nodefile_parse(roster, file_of(variable), text, strlen(text), err);
}

Test(nodefile, accepted)
{
    static const struct {
        const char *variable, *text, *want;
    } table[] = {
        {"PBS_NODEFILE", "n1\nn1\nn2\nn2\n", "n1/2 n2/2"},
        {"PBS_NODEFILE", "n1.lan\nn2.lan\nn1.lan\nn2.lan", "n1.lan/2 n2.lan/2"}, /* in turn */
        {"PBS_NODEFILE", "n2\r\n\n  n1  \r\n", "n2/0 n1/0"}, /* one each says nothing */
        {"PBS_NODEFILE", "n1\nn1\nn2\n", "n1/2 n2/1"},
        {"LSB_DJOB_HOSTFILE", "batch2\nc5n7\nc5n7\n", "batch2/1 c5n7/2"},
        {"LSB_MCPU_HOSTS", "hostA 4 hostB 2", "hostA/4 hostB/2"},
        {"LSB_MCPU_HOSTS", " hostA 1  hostB 1 ", "hostA/0 hostB/0"},
        {"LSB_MCPU_HOSTS", "hostA 1 hostA 3", "hostA/4"},
        {"PE_HOSTFILE",
         "c12 16 all.q@c12 UNDEFINED\nc13 16 all.q@c13 <NULL>\nc12 4 short.q@c12 0,1\n",
         "c12/20 c13/16"},
        {"PE_HOSTFILE", "c12 2\n", "c12/2"},
        {"COBALT_NODEFILE", "thetagpu01\nthetagpu02\n", "thetagpu01/0 thetagpu02/0"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_roster roster;
        struct ds_error err = {0};
        char got[256];

        cr_assert_eq(parse(&roster, table[i].variable, table[i].text, &err), 0, "%s", err.text);
        show(&roster, got, sizeof(got));
        cr_expect_str_eq(got, table[i].want);
        ds_roster_release(&roster);
    }
}

Test(nodefile, refused)
{
    static const struct {
        const char *variable, *text, *want;
    } table[] = {
        {"PBS_NODEFILE", "", "PBS_NODEFILE: no host is named there"},
        {"PBS_NODEFILE", " \n\n", "PBS_NODEFILE: no host is named there"},
        {"PBS_NODEFILE", "n1\n\nn[1-9]\n", "PBS_NODEFILE: line 3: 'n[1-9]' is no name of a host"},
        {"PBS_NODEFILE", "n1\nn1 n2\n",
         "PBS_NODEFILE: line 2: expected a host alone, found 'n2' after it"},
        {"PBS_NODEFILE", "n1\n-oProxyCommand=x\n", "PBS_NODEFILE: line 2: "},
        {"PBS_NODEFILE", "n1\nn;1\n", "PBS_NODEFILE: line 2: "},
        {"PE_HOSTFILE", "c12 4 q\nc13\n", "PE_HOSTFILE: line 2: no number of slots after 'c13'"},
        {"PE_HOSTFILE", "c12 four q\n",
         "PE_HOSTFILE: line 1: 'four' is no number of slots from 1 to 1024"},
        {"PE_HOSTFILE", "c12 0 q\n", "PE_HOSTFILE: line 1: '0' is no number of slots"},
        {"PE_HOSTFILE", "c12 1025 q\n", "PE_HOSTFILE: line 1: more than 1024 slots on host 'c12'"},
        {"PE_HOSTFILE", "c12 1000 q\nc12 25 r\n",
         "PE_HOSTFILE: line 2: more than 1024 slots on host 'c12'"},
        {"PE_HOSTFILE", "c12 4294967297 q\n", "PE_HOSTFILE: line 1: '4294967297' is no number"},
        {"LSB_MCPU_HOSTS", "a 2 b", "LSB_MCPU_HOSTS: no number of slots after 'b'"},
        {"LSB_MCPU_HOSTS", "a b", "LSB_MCPU_HOSTS: 'b' is no number of slots from 1 to 1024"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_roster roster;
        struct ds_error err = {0};

        cr_expect_eq(parse(&roster, table[i].variable, table[i].text, &err), -EINVAL, "%s",
                     table[i].text);
        cr_expect_eq(strncmp(err.text, table[i].want, strlen(table[i].want)), 0, "'%s' is not '%s'",
                     err.text, table[i].want);
        ds_roster_release(&roster);
    }
}

Test(nodefile, sizes)
{
    const size_t len = (size_t)DS_NODEFILE_BYTES + 1;
    char *text = malloc(len);
    struct ds_roster roster;
    struct ds_error err = {0};

    cr_assert_not_null(text);
    memset(text, '\n', len);
    ds_roster_init(&roster);
    cr_expect_eq(ds_nodefile_parse(&roster, file_of("PBS_NODEFILE"), text, len, &err), -EINVAL);
    cr_expect(strstr(err.text, "larger than") != NULL, "%s", err.text);
    memcpy(text, "n1\nn\0", 5);
    cr_expect_eq(ds_nodefile_parse(&roster, file_of("PBS_NODEFILE"), text, 5, &err), -EINVAL);
    cr_expect(strstr(err.text, "not a text file") != NULL, "%s", err.text);
    ds_roster_release(&roster);
    free(text);
}

static void forget_all(void)
{
    const struct ds_nodefile *file;

    for (size_t i = 0; (file = ds_nodefile_at(i)) != NULL; i++)
        (void)unsetenv(file->variable);
}

Test(nodefile, found, .init = forget_all)
{
    const char *value = NULL;

    cr_expect_null(ds_nodefile_here(&value));
    cr_assert_eq(setenv("COBALT_NODEFILE", "/c", 1), 0);
    cr_assert_eq(setenv("PBS_NODEFILE", "", 1), 0); /* as good as not set */
    cr_assert_str_eq(ds_nodefile_here(&value)->scheduler, "Cobalt");
    cr_expect_str_eq(value, "/c");
    cr_assert_eq(setenv("LSB_MCPU_HOSTS", "a 1", 1), 0);
    cr_expect_str_eq(ds_nodefile_here(&value)->variable, "LSB_MCPU_HOSTS");
    cr_assert_eq(setenv("LSB_DJOB_HOSTFILE", "/l", 1), 0);
    cr_expect_str_eq(ds_nodefile_here(&value)->variable, "LSB_DJOB_HOSTFILE");
}

Test(nodefile, file_that_is_missing)
{
    struct ds_roster roster;
    struct ds_error err = {0};

    ds_roster_init(&roster);
    cr_expect_eq(ds_nodefile_load(&roster, file_of("PBS_NODEFILE"), "/nowhere/nodes", &err),
                 -ENOENT);
    cr_expect_eq(strncmp(err.text, "PBS_NODEFILE: ", 14), 0, "%s", err.text);
    ds_roster_release(&roster);
}
