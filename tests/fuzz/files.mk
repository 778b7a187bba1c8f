# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# The fuzz targets and the rooms each one links; one line per target, see rules.mk.
FUZZ :=
FUZZ += wire
FUZZROOMS_wire := base
FUZZ += tokens
FUZZROOMS_tokens := data ckpt ops base
FUZZ += job
FUZZROOMS_job := job base
FUZZ += spec
FUZZROOMS_spec := launcher base
FUZZ += greet
FUZZROOMS_greet := comm base
FUZZ += store
FUZZROOMS_store := launcher base
FUZZ += safetensors
FUZZROOMS_safetensors := ckpt ops base
FUZZ += manifest
FUZZROOMS_manifest := ckpt ops base
FUZZ += slurm_env
FUZZROOMS_slurm_env := launcher base
FUZZ += envfile
FUZZROOMS_envfile := cli launcher job base
FUZZ += seal
FUZZROOMS_seal := launcher base
FUZZ += known_hosts
FUZZROOMS_known_hosts := launcher base
FUZZ += ssh_config
FUZZROOMS_ssh_config := launcher base
