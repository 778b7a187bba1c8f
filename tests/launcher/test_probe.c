/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_probe.c - what is said of this machine is JSON, and true.
 */
#include <criterion/criterion.h>

#include <gnu/libc-version.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/json_read.h"
#include "launcher/probe.h"

static char answer[1 << 16]; /* of the last probe() */

static json_t *probe(const char *dir)
{
    struct ds_error err = {0};
    struct ds_buf text;
    json_t *object;

    ds_buf_init(&text, 1 << 16);
    ds_probe_write(dir, &text);
    object = ds_json_parse(text.data, text.len, &err);
    (void)snprintf(answer, sizeof(answer), "%s", ds_buf_text(&text));
    cr_assert(json_is_object(object), "%s", err.text);
    ds_buf_release(&text);
    return object;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text != NULL ? text : "";
}

static json_int_t number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

Test(probe, this_machine)
{
    json_t *object = probe("/");
    struct utsname name;

    cr_assert_eq(uname(&name), 0);
    cr_expect_str_eq(text_of(object, "kernel"), name.release);
    cr_expect_str_eq(text_of(object, "machine"), name.machine);
    cr_expect_str_eq(text_of(object, "libc"), gnu_get_libc_version());
    cr_expect(number_of(object, "cores") >= 1 &&
              number_of(object, "cores") <= sysconf(_SC_NPROCESSORS_CONF));
    cr_expect_gt(number_of(object, "memory_bytes"), number_of(object, "free_bytes"));
    cr_expect_neq(text_of(object, "nofile")[0], '\0');
    cr_expect_neq(text_of(object, "memlock")[0], '\0');
    cr_expect_not_null(json_object_get(object, "tmp_free_bytes"));
    cr_expect_not_null(json_object_get(object, "dir_free_bytes"));
    cr_expect_gt(json_real_value(json_object_get(object, "time")), 1.7e9);
    json_decref(object);
    cr_expect(strstr(answer, "\"time\":") > strstr(answer, "\"load\":"), "the clock is read last");
}

Test(probe, the_address_that_ssh_used)
{
    json_t *object;

    cr_assert_eq(setenv("SSH_CONNECTION", "127.0.0.1 5000 127.0.0.1 22", 1), 0);
    object = probe(NULL);
    cr_expect_str_eq(text_of(object, "address"), "127.0.0.1");
    cr_expect_str_eq(text_of(object, "interface"), "lo");
    cr_expect_null(json_object_get(object, "dir_free_bytes"));
    json_decref(object);
    cr_assert_eq(setenv("SSH_CONNECTION", "nonsense", 1), 0);
    object = probe("/no/such/folder");
    cr_expect_null(json_object_get(object, "address"));
    cr_expect_null(json_object_get(object, "dir_free_bytes"));
    json_decref(object);
}
