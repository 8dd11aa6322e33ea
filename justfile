# One recipe per check. CI runs `.ci/run`, which is all of them but the optional ones.

# List the recipes.
default:
    @just --list

# Everything CI runs.
ci:
    .ci/run

# Formatting.
fmt:
    .ci/run fmt

# Lints; a warning is an error.
clippy:
    .ci/run clippy

# The documentation builds, and its links lead somewhere.
doc:
    .ci/run doc

# All tests, or those with NAME in their name.
test *NAME:
    tests/run {{ NAME }}

# Licences, sources and known advisories of the dependencies (needs cargo-deny).
deny:
    cargo deny check

# A whole cluster on this machine, to play with.
local:
    compose/local
