/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hostfile_yaml.c - the YAML form of the hostfile; the contract is in roster.h.
 *
 *     defaults: {slots: 8, user: train, port: 22}
 *     hosts:
 *       - node[001-128]
 *       - {name: big7, slots: 4, address: 10.0.0.7, devices: [0, 1, 2, 3]}
 *
 * One table of keys serves `defaults` and the entries of `hosts`.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/yaml.h"
#include "launcher/hosts/roster.h"

enum key { KEY_NAME, KEY_SLOTS, KEY_USER, KEY_PORT, KEY_ADDRESS, KEY_DEVICES, KEYS };

static const struct {
    const char *name;
    uint32_t max;  /* of a number; 0: text */
    bool defaults; /* may stand in defaults */
} keys[KEYS] = {
    [KEY_NAME] = {"name", 0, false},       [KEY_SLOTS] = {"slots", DS_MAX_SLOTS, true},
    [KEY_USER] = {"user", 0, true},        [KEY_PORT] = {"port", 65535, true},
    [KEY_ADDRESS] = {"address", 0, false}, [KEY_DEVICES] = {"devices", DS_MAX_SLOTS, false},
};

struct reader {
    struct ds_roster *roster;
    const char *file;
};

#define FAIL_AT(err, in, mark, ...)                                                                \
    ds_error_context((err), ds_fail((err), EINVAL, __VA_ARGS__), "%s:%u:%u", (in)->file,           \
                     (mark).line, (mark).column)

static int read_number(const struct reader *in, const struct ds_yaml *node, uint32_t min,
                       uint32_t max, uint32_t *out, struct ds_error *err)
{
    const char *text = node->kind == DS_YAML_SCALAR && node->plain ? node->text : "";
    size_t digits = strspn(text, "0123456789");
    unsigned long n = digits > 0 && digits <= 9 ? strtoul(text, NULL, 10) : 0;

    if (digits == 0 || digits > 9 || text[digits] != '\0' || n < min || n > max)
        return FAIL_AT(err, in, node->mark, "'%s' must be a number from %u to %u",
                       node->key != NULL ? node->key : "device", min, max);
    *out = (uint32_t)n;
    return 0;
}

static int read_text(const struct reader *in, const struct ds_yaml *node, const char **out,
                     struct ds_error *err)
{
    if (node->kind != DS_YAML_SCALAR || node->text[0] == '\0' || ds_yaml_is_null(node))
        return FAIL_AT(err, in, node->mark, "'%s' must be text", node->key);
    *out = node->text;
    return 0;
}

/* The number of one more device, which is not among the `n` so far. */
static int read_device(const struct reader *in, const struct ds_yaml *item, uint32_t *device,
                       uint32_t n, struct ds_error *err)
{
    int rc = read_number(in, item, 0, DS_MAX_SLOTS - 1, &device[n], err);

    for (uint32_t i = 0; rc == 0 && i < n; i++)
        if (device[i] == device[n])
            return FAIL_AT(err, in, item->mark, "device %u is named twice", device[n]);
    return rc;
}

static int read_devices(const struct reader *in, const struct ds_yaml *node,
                        struct ds_host_spec *host, struct ds_error *err)
{
    uint32_t *device, n = 0;
    int rc = 0;

    if (node->kind != DS_YAML_SEQUENCE || node->count == 0 || node->count > DS_MAX_SLOTS)
        return FAIL_AT(err, in, node->mark, "'devices' must be a list of 1 to %d numbers",
                       DS_MAX_SLOTS);
    device = ds_arena_alloc(&in->roster->arena, node->count, sizeof(*device));
    if (device == NULL)
        return ds_fail(err, ENOMEM, "no memory for devices");
    for (const struct ds_yaml *item = node->child; item != NULL && rc == 0; item = item->next)
        rc = read_device(in, item, device, n++, err);
    host->device = device;
    host->devices = n;
    return rc;
}

static int read_value(const struct reader *in, enum key key, const struct ds_yaml *node,
                      struct ds_host_spec *host, const char **name, struct ds_error *err)
{
    switch (key) {
    case KEY_NAME: return read_text(in, node, name, err);
    case KEY_USER: return read_text(in, node, &host->user, err);
    case KEY_ADDRESS: return read_text(in, node, &host->address, err);
    case KEY_SLOTS: return read_number(in, node, 1, keys[key].max, &host->slots, err);
    case KEY_PORT: return read_number(in, node, 1, keys[key].max, &host->port, err);
    case KEY_DEVICES: return read_devices(in, node, host, err);
    case KEYS: break;
    }
    return 0;
}

static int fail_unknown(const struct reader *in, const struct ds_yaml *node, bool defaults,
                        struct ds_error *err)
{
    const char *known[KEYS];
    size_t count = 0;
    int rc;

    for (size_t i = 0; i < KEYS; i++)
        if (!defaults || keys[i].defaults)
            known[count++] = keys[i].name;
    rc = ds__hostfile_unknown(node->key, known, count, err);
    return ds_error_context(err, rc, "%s:%u:%u", in->file, node->key_mark.line,
                            node->key_mark.column);
}

/* A map of the keys above; `name` NULL: the defaults. */
static int read_host(const struct reader *in, const struct ds_yaml *map, struct ds_host_spec *host,
                     const char **name, struct ds_error *err)
{
    int rc = 0;

    if (map->kind != DS_YAML_MAP)
        return FAIL_AT(err, in, map->mark, "expected a map of keys, found %s",
                       ds_yaml_kind_name(map));
    for (const struct ds_yaml *node = map->child; node != NULL && rc == 0; node = node->next) {
        unsigned key = 0;

        while (key < KEYS &&
               (strcmp(keys[key].name, node->key) != 0 || (name == NULL && !keys[key].defaults)))
            key++;
        if (key == KEYS)
            return fail_unknown(in, node, name == NULL, err);
        rc = read_value(in, (enum key)key, node, host, name, err);
    }
    return rc;
}

static int read_entry(const struct reader *in, const struct ds_yaml *node,
                      const struct ds_host_spec *defaults, struct ds_error *err)
{
    struct ds_host_spec host = *defaults;
    const char *name = NULL;
    int rc = 0;

    if (node->kind == DS_YAML_SCALAR)
        name = node->text;
    else
        rc = read_host(in, node, &host, &name, err);
    if (rc != 0)
        return rc;
    if (name == NULL)
        return FAIL_AT(err, in, node->mark, "a host without 'name'");
    if (host.devices != 0 && host.slots == 0)
        host.slots = host.devices;
    rc = ds_roster_add(in->roster, name, &host, err);
    return ds_error_context(err, rc, "%s:%u:%u", in->file, node->mark.line, node->mark.column);
}

int ds__hostfile_yaml(struct ds_roster *roster, const char *name, const char *text, size_t len,
                      struct ds_error *err)
{
    static const char *const top[] = {"hosts", "defaults"};
    const struct reader in = {.roster = roster, .file = name};
    struct ds_host_spec defaults = {0};
    const struct ds_yaml *hosts, *node;
    struct ds_yaml *root;
    int rc = ds_yaml_parse(&roster->arena, name, text, len, &root, err);

    if (rc != 0)
        return rc;
    if (root->kind != DS_YAML_MAP)
        return FAIL_AT(err, &in, root->mark,
                       "a hostfile is a map with 'hosts' and 'defaults', not "
                       "%s",
                       ds_yaml_kind_name(root));
    for (node = root->child; node != NULL; node = node->next)
        if (strcmp(node->key, top[0]) != 0 && strcmp(node->key, top[1]) != 0)
            return ds_error_context(err, ds__hostfile_unknown(node->key, top, 2, err), "%s:%u:%u",
                                    name, node->key_mark.line, node->key_mark.column);
    node = ds_yaml_get(root, "defaults");
    if (node != NULL)
        rc = read_host(&in, node, &defaults, NULL, err);
    hosts = ds_yaml_get(root, "hosts");
    if (rc == 0 && (hosts == NULL || hosts->kind != DS_YAML_SEQUENCE))
        return FAIL_AT(err, &in, hosts != NULL ? hosts->mark : root->mark,
                       "'hosts' must be a list of hosts");
    for (node = hosts != NULL ? hosts->child : NULL; node != NULL && rc == 0; node = node->next)
        rc = read_entry(&in, node, &defaults, err);
    return rc;
}
