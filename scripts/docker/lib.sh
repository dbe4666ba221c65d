#!/usr/bin/env bash
# The shared code of the container scripts, which source it. It sets functions only, and the settings
# of load_settings.
# shellcheck disable=SC2034 # the scripts use what is set here

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
me=$(basename -- "$0")

say() { printf '%s: %s\n' "$me" "$*" >&2; }
die() {
    say "$@"
    exit 1
}
misuse() {
    say "$* (--help tells more)"
    exit 2
}

# Runs the caller's usage if the first argument asks for help.
help_if_asked() { # ARGUMENT...
    case ${1:-} in
    -h | --help)
        usage
        exit 0
        ;;
    esac
}

# The settings file, which tar-like itself reads, too (as it does /etc/tar-like.conf, which the
# scripts do not read). Variables of the environment stay as they are.
source_rc() {
    local rc=${TARLIKE_RC-${HOME:+$HOME/.tar_like_rc}} name
    [[ -n $rc ]] || return 0
    if [[ ! -e $rc ]]; then
        [[ -z ${TARLIKE_RC:-} ]] || die "TARLIKE_RC: there is no $rc"
        return 0
    fi
    # As in the program, a file that everyone may write to is not run. A file that is named may belong
    # to another user.
    local mode owner
    read -r mode owner < <(stat -L -c '%a %u' -- "$rc") || die "the settings in $rc cannot be read"
    ((!(0$mode & 2))) || die "everybody on this host may write to $rc: take that right away (chmod o-w)"
    [[ -n ${TARLIKE_RC:-} || $owner == "$EUID" || $owner == 0 ]] ||
        die "$rc belongs to another user; if it is to count all the same, name it by TARLIKE_RC"
    local -A before=()
    while IFS= read -r name; do
        before[$name]=${!name}
    done < <(compgen -e)
    set -a
    [[ -r $rc ]] || die "the settings in $rc cannot be read"
    # The exit code of its last command says nothing about the settings.
    # shellcheck source=/dev/null
    . "$rc" || true
    set +a
    for name in "${!before[@]}"; do
        [[ ${!name-} == "${before[$name]}" ]] || export "$name=${before[$name]}"
    done
    # A key of the environment is not combined with a token of the file: tar-like, too, takes all
    # variables of a group from one place.
    local group
    for group in "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE" "TARLIKE_TOKEN TARLIKE_TOKEN_FILE"; do
        local here=false
        for name in $group; do [[ -z ${before[$name]+x} ]] || here=true; done
        $here || continue
        for name in $group; do [[ -n ${before[$name]+x} ]] || unset "$name"; done
    done
}

# The original's variables and their defaults.
load_settings() {
    source_rc
    engine=${TARLIKE_ENGINE:-docker}
    image=${TARLIKE_IMAGE:-tar-like}
    DDIR=${DDIR:-$PWD/tmp}
    SDIR=${SDIR:-$PWD}
    UDIR=${UDIR:-/data/rw/recv-test}
    ca_is_named=${EX_PYCACERT:-}
    EX_PYCACERT=${EX_PYCACERT:-${HOME:-}/.python-cacert.pem}
}

need_engine() {
    command -v "$engine" >/dev/null ||
        die "$engine is not installed. On Debian: apt-get install docker.io (or podman, and TARLIKE_ENGINE=podman)"
    local said
    said=$(timeout 30 "$engine" info 2>&1 >/dev/null) || {
        [[ -z $said ]] || printf '%s\n' "$said" >&2
        die "$engine does not answer: is its daemon running, and may you use it? (systemctl start docker; group docker)"
    }
    [[ $said != *"ERROR: "* ]] || {
        printf '%s\n' "$said" >&2
        die "$engine does not answer: is its daemon running, and may you use it? (systemctl start docker; group docker)"
    }
}

need_image() {
    "$engine" image inspect "$image" >/dev/null 2>&1 ||
        die "there is no image $image. Make it by: scripts/make-image"
}

# The receiver should not be root, and the check should not either: as root it compares owners.
not_as_root() {
    if [[ -z ${TARLIKE_USER:-} && $EUID == 0 ]]; then
        TARLIKE_USER=10001:10001
        # DDIR is root's.
        scratch=/tmp
    fi
}

# The address of this machine that its containers can reach, and no other host can.
gateway() {
    local address subnet
    local format='{{with index .IPAM.Config 0}}{{.Gateway}}-{{.Subnet}}{{end}}'
    IFS=- read -r address subnet < <("$engine" network inspect bridge --format "$format" 2>/dev/null) || true
    # An engine that was not told an address takes the first one, and may not name it.
    if [[ -z $address && $subnet =~ ^([0-9]+\.[0-9]+\.[0-9]+)\.0/ ]]; then
        address=${BASH_REMATCH[1]}.1
    fi
    [[ $address =~ ^[0-9.]+$ ]] || address=127.0.0.1
    printf '%s' "$address"
}

# The secret of senders and receiver, as the program finds it, into TARLIKE_TOKEN.
load_token() {
    if [[ -z ${TARLIKE_TOKEN:-} && -n ${TARLIKE_TOKEN_FILE:-} ]]; then
        [[ -r $TARLIKE_TOKEN_FILE ]] || die "TARLIKE_TOKEN_FILE: cannot read $TARLIKE_TOKEN_FILE"
        TARLIKE_TOKEN=$(<"$TARLIKE_TOKEN_FILE")
        export TARLIKE_TOKEN
    fi
}

asks_for() { # FLAG ARGUMENT...
    local flag=$1 argument
    shift
    for argument; do
        [[ $argument != "$flag" && $argument != "$flag="* ]] || return 0
    done
    return 1
}

# Arguments of the engine for a container with no right beyond its work, into the array "run".
prepare_run() {
    mkdir -p -- "$DDIR" || die "DDIR: cannot make $DDIR"
    [[ -d $SDIR ]] || die "SDIR: no folder $SDIR"
    DDIR=$(realpath -- "$DDIR")
    SDIR=$(realpath -- "$SDIR")
    [[ $DDIR != *:* && $SDIR != *:* ]] || die "a folder with a colon in its name cannot be given to a container"
    local name
    run=(run --rm --read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 512
        --tmpfs "/tmp:mode=1777,nosuid,nodev" --user "${TARLIKE_USER:-$(id -u):$(id -g)}"
        --volume "$DDIR:/data/rw" --volume "$SDIR:/data/ro:ro" --workdir /data/ro
        # Databases are in DDIR, and so are temporary files: they may be larger than memory.
        --env HOME=/data/rw --env "TMPDIR=${scratch:-/data/rw}" --env TARLIKE_RC=)
    [[ ! -t 0 || ! -t 1 || ! -t 2 ]] || run+=(--interactive --tty)
    # Rootless Podman maps users: files are to belong to the caller.
    [[ $engine != *podman* || $EUID == 0 ]] || run+=(--userns keep-id)
    while IFS= read -r name; do
        case $name in
        # Names of files on this machine, and what is for the scripts.
        TARLIKE_RC | TARLIKE_SYSTEM_CONF | TARLIKE_*DATABASE* | TARLIKE_*FOLDER | TARLIKE_*_FILE | TARLIKE_TOKENS) ;;
        TARLIKE_*_CERT | TARLIKE_*_KEY | TARLIKE_CLIENT_CA) ;;
        TARLIKE_USER | TARLIKE_ENGINE | TARLIKE_*IMAGE | TARLIKE_UPLOAD_URL) ;;
        TARLIKE_SECRETS | TARLIKE_BASE | TARLIKE_MEMORY | TARLIKE_CPUS | TARLIKE_NET | TARLIKE_HOST) ;;
        AWS_CA_BUNDLE | AWS_CONFIG_FILE | AWS_SHARED_CREDENTIALS_FILE) ;;
        LOGLEVEL | TARLIKE_* | AWS_* | http_proxy | https_proxy | no_proxy | all_proxy | HTTP_PROXY | HTTPS_PROXY | NO_PROXY | ALL_PROXY)
            # By its name only: a value would stand on the command line.
            run+=(--env "$name")
            ;;
        esac
    done < <(compgen -e)
}

# For what reads the source: root may read every file there, but no more than that.
read_everything() {
    [[ ${TARLIKE_USER:-$EUID} != 0 && ${TARLIKE_USER:-$EUID} != 0:* ]] || run+=(--cap-add DAC_READ_SEARCH)
    run+=(--no-healthcheck)
}

# Flags of upload for the certificate authorities in EX_PYCACERT, into the array "trust"; mounts the
# file.
trust_receiver() { # ARGUMENT...
    trust=()
    [[ -f $EX_PYCACERT || -z $ca_is_named ]] || die "EX_PYCACERT: there is no file $EX_PYCACERT"
    [[ -f $EX_PYCACERT ]] && ! asks_for --ca-file "$@" && ! asks_for --ignore-ca "$@" || return 0
    run+=(--volume "$(realpath -- "$EX_PYCACERT"):/run/receiver-ca.pem:ro")
    trust=(--ca-file /run/receiver-ca.pem)
}

# The arguments' own -u wins over UPLOAD_URL; into the array "where".
find_receiver() { # ARGUMENT...
    where=()
    if ! asks_for -u "$@" && ! asks_for --upload-url "$@"; then
        where=(-u "${UPLOAD_URL:-http://$(gateway):8000/tar}")
    fi
}

# The certificate authority of a store in S3.
trust_store() {
    if [[ -n ${AWS_CA_BUNDLE:-} ]]; then
        [[ -r $AWS_CA_BUNDLE ]] || die "AWS_CA_BUNDLE: cannot read $AWS_CA_BUNDLE"
        run+=(--volume "$(realpath -- "$AWS_CA_BUNDLE"):/run/store-ca.pem:ro" --env AWS_CA_BUNDLE=/run/store-ca.pem)
    elif [[ -n ${IN_PYCACERT:-} || -f $SDIR/ca-cert.pem ]]; then
        run+=(--env "AWS_CA_BUNDLE=${IN_PYCACERT:-ca-cert.pem}")
    fi
}
