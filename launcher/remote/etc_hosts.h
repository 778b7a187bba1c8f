/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * etc_hosts.h - what /etc/hosts alone says of a name, where the system would stop there too.
 *
 * Clusters name their hosts in this file.  getaddrinfo() takes a thread, as it might ask a server,
 * and some sixty system calls a name to find out the same.  So a name is taken from here when
 * nsswitch.conf asks `files` first and for hosts without a condition, and exactly one line of the
 * file has the name: one address, no order to choose.  In every other case nothing is said.
 *
 * Source  nsswitch.conf(5), hosts(5)
 * Tests   tests/launcher/test_etc_hosts.c
 */
#ifndef DS_LAUNCHER_REMOTE_ETC_HOSTS_H
#define DS_LAUNCHER_REMOTE_ETC_HOSTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

enum { DS_ETC_HOSTS_BYTES = 1024 * 1024, DS_ETC_HOSTS_ADDRESS = 64 };

struct ds_etc_hosts {   /* zeroed: knows nothing */
    struct ds_buf text; /* of the file; empty: not to be used */
};

/* Read both files; one that is missing, unreadable or too large is none. */
void ds_etc_hosts_read(struct ds_etc_hosts *hosts, const char *nsswitch, const char *path);
void ds_etc_hosts_release(struct ds_etc_hosts *hosts);

/* The address of the only line that has the name, as it stands there; false: it is not for us to
 * say. */
bool ds_etc_hosts_find(const struct ds_etc_hosts *hosts, const char *name,
                       char out[DS_ETC_HOSTS_ADDRESS]);

#endif
