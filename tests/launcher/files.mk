# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
TESTS_launcher := $(addprefix tests/launcher/,test_bind.c test_boot.c test_cgroup.c test_channel.c \
    test_cores.c test_etc_hosts.c test_gather.c test_gpulock.c test_gpus.c test_hostfile.c test_hostlist.c test_join.c test_known_hosts.c test_logmux.c \
    test_meet.c test_memory.c test_names.c test_nodefile.c test_placement.c test_probe.c test_program.c \
    test_pulse.c test_restart.c test_scarce.c test_seal.c test_sealed.c test_select.c test_slurm.c test_slurm_env.c test_spares.c \
    test_spawn.c test_spec.c test_ssh_agent.c test_ssh_config.c test_ssh_crypto.c \
    test_ssh_key.c test_ssh_site.c test_store.c test_supervise.c test_topology.c test_trust.c)
TESTROOMS_launcher := launcher base
$(B)/tests/launcher/test_memory $(B)/tests/launcher/test_scarce: private DS_LDFLAGS += $(FAULT_WRAPS)

# A rank that does what a script says, for tests/e2e/processes.py.
TESTS_e2e := tests/e2e/fake_worker.c
FAKE_WORKER := $(B)/tests/e2e/fake_worker
$(FAKE_WORKER): $(B)/tests/e2e/fake_worker.o $(B)/base/build.id.o $(B)/libbase.a
	$(call say,LINK    $@)
	$(Q)$(LINK) $(LDLIBS)
-include $(FAKE_WORKER).d
tests check check-e2e: $(FAKE_WORKER)
