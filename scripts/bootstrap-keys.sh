#!/bin/sh
# Makes the cluster's own SSH key and installs it on hosts, without coord.
#
#   scripts/bootstrap-keys.sh [--yes] [--dir keys] user@host [-p PORT] [user@host [-p PORT]] ...
#
# For each host: its key is fetched, shown and, after a yes, pinned in keys/known_hosts; then our public key is
# appended to ~/.ssh/authorized_keys there through whatever login works already (your own keys, or a password that
# ssh asks for). Doing it again changes nothing. The private key never leaves this machine.
#
# Names of ~/.ssh/config work. Where one is reached through a jump, ssh itself asks for the host's key.
# A key that may do nothing but run the worker's bridge: `coord keys bootstrap --restrict`.
# Further options of the ssh that installs the key may stand in COORD_SSH_OPTIONS.
# --yes accepts unknown host keys without asking; a key that has CHANGED is refused all the same.
# Exit codes: 0 all hosts done, 64 wrong usage, 69 a host did not answer, 77 a key was refused.
set -eu

dir=keys
yes=no
failed=0

say() { printf '%s\n' "$*" >&2; }
die() { code=$1; shift; say "bootstrap-keys: error: $*"; exit "$code"; }
usage() { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 64; }

for tool in ssh ssh-keygen ssh-keyscan; do
    command -v "$tool" >/dev/null 2>&1 || die 69 "$tool is missing: apt-get install openssh-client"
done

make_key() {
    key=$dir/coord_ed25519
    if [ ! -d "$dir" ]; then mkdir -p "$dir"; chmod 700 "$dir"; fi
    if command -v git >/dev/null 2>&1 &&
        (cd "$dir" && git ls-files --error-unmatch -- coord_ed25519 >/dev/null 2>&1); then
        die 77 "git tracks the private key $key: make a new one under another name"
    fi
    if [ ! -f "$key" ]; then
        ssh-keygen -q -t ed25519 -N '' -C coord -f "$key"
        say "created $key"
    fi
    chmod 600 "$key"
    [ -f "$key.pub" ] || ssh-keygen -y -P '' -f "$key" > "$key.pub"
}

# ask QUESTION: true when the answer is yes.
ask() {
    [ "$yes" = no ] || return 0
    [ -r /dev/tty ] || return 1
    printf '%s [y/N] ' "$1" >&2
    read -r answer < /dev/tty || return 1
    [ "$answer" = y ] || [ "$answer" = yes ]
}

# The words of ssh's own reading of a name: `ssh -G`.
resolved() { ssh -G -p "$2" -- "$1" 2>/dev/null | sed -n "s/^$3 //p" | head -n 1; }

# pin HOST PORT: the host's Ed25519, ECDSA or RSA key into known_hosts.
pin() {
    name=$(resolved "$1" "$2" hostname)
    [ -n "$name" ] || name=$1
    place=$(resolved "$1" "$2" hostkeyalias)
    if [ -z "$place" ]; then
        place=$name
        [ "$2" = 22 ] || place="[$name]:$2"
    fi
    touch "$dir/known_hosts"
    chmod 600 "$dir/known_hosts"
    known=$(ssh-keygen -F "$place" -f "$dir/known_hosts" 2>/dev/null | sed '/^#/d' || true)
    revoked=$(printf '%s\n' "$known" | sed -n '/^@revoked/p')
    known=$(printf '%s\n' "$known" | sed '/^@/d')
    # Of a host with several keys, the kind that is known already is the one to compare.
    kinds=$(printf '%s\n' "$known" | cut -d ' ' -f 2 | sed 's/^ssh-//; s/^ecdsa-.*/ecdsa/' | sort -u)
    [ -n "$kinds" ] || kinds="ed25519 ecdsa rsa"
    shown=
    for kind in $kinds; do
        shown=$(ssh-keyscan -T 10 -t "$kind" -p "$2" -- "$name" 2>/dev/null | sed -n '/^[^#]/{p;q;}')
        [ -z "$shown" ] || break
    done
    if [ -z "$shown" ]; then
        say "bootstrap-keys: error: no SSH server answers at $name port $2"
        return 69
    fi
    blob=${shown#* }
    print=$(printf '%s\n' "$shown" | ssh-keygen -lf - | cut -d ' ' -f 2)
    case $revoked in
    *"$blob"*)
        say "bootstrap-keys: error: the key of $place is marked @revoked: $print"
        return 77
        ;;
    esac
    case $known in
    *"$blob"*)
        say "$place: known, $print"
        return 0
        ;;
    esac
    if [ -n "$known" ]; then
        was=$(printf '%s\n' "$known" | ssh-keygen -lf - | cut -d ' ' -f 2 | tr '\n' ' ')
        say "bootstrap-keys: error: the key of $place has changed: it was $was, it is $print"
        say ""
        say "hint: when the host was set up anew: ssh-keygen -R '$place' -f $dir/known_hosts, then again"
        return 77
    fi
    say "$place shows the key $print"
    if ! ask "trust it?"; then
        say "bootstrap-keys: error: the key of $place was not accepted"
        return 77
    fi
    printf '%s %s\n' "$place" "$blob" >> "$dir/known_hosts"
}

# What runs on the host: it reads one line and appends it when its key is not there.
# shellcheck disable=SC2016 # expanded there, not here
installer='umask 077; IFS= read -r line || exit 1
key=$(printf "%s\n" "$line" | cut -d " " -f 1,2); [ -n "$key" ] || exit 1
mkdir -p "$HOME/.ssh" || exit 1; file=$HOME/.ssh/authorized_keys
if [ -f "$file" ] && grep -qF -- "$key" "$file"; then echo present; exit 0; fi
if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then echo >> "$file" || exit 1; fi
printf "%s\n" "$line" >> "$file" && chmod 600 "$file" && echo installed'

# is_behind_jump HOST PORT: true when ssh-keyscan can't see the host.
is_behind_jump() {
    way=$(resolved "$1" "$2" proxyjump)$(resolved "$1" "$2" proxycommand)
    case $way in '' | none | nonenone) return 1 ;; esac
}

# install LOGIN HOST PORT STRICT
install() {
    set -- "$1" "$2" "$3" "$4" -p "$3" -o "UserKnownHostsFile=$dir/known_hosts" -o "StrictHostKeyChecking=$4" \
        -o HashKnownHosts=no -o ConnectTimeout=20
    login=$1
    shift 4
    if ssh "$@" -o BatchMode=yes -o IdentitiesOnly=yes -i "$dir/coord_ed25519" -- "$login" true \
        >/dev/null 2>&1 </dev/null; then
        say "$login: the key works already"
        return 0
    fi
    # shellcheck disable=SC2086 # several options, in words
    if ! outcome=$(ssh "$@" ${COORD_SSH_OPTIONS:-} -- "$login" "exec /bin/sh -c '$installer'" \
        < "$dir/coord_ed25519.pub"); then
        say "bootstrap-keys: error: cannot log in as $login to install the key"
        return 77
    fi
    say "$login: $(printf '%s\n' "$outcome" | tail -n 1)"
    if ! ssh "$@" -o BatchMode=yes -o IdentitiesOnly=yes -i "$dir/coord_ed25519" -- "$login" true \
        >/dev/null 2>&1 </dev/null; then
        say "bootstrap-keys: error: $login does not accept the key although it is installed"
        say ""
        say "hint: check the modes of ~ and ~/.ssh there (sshd's StrictModes), and PubkeyAuthentication"
        return 77
    fi
}

# host LOGIN PORT
host() {
    code=0
    strict=yes
    if is_behind_jump "${1##*@}" "$2"; then
        strict=ask
        [ "$yes" = no ] || strict=accept-new
    else
        pin "${1##*@}" "$2" || code=$?
    fi
    [ "$code" -ne 0 ] || install "$1" "${1##*@}" "$2" "$strict" || code=$?
    [ "$code" -eq 0 ] || failed=$code
}

[ $# -gt 0 ] || usage
made=no
while [ $# -gt 0 ]; do
    case $1 in
    -y | --yes) yes=yes ;;
    --dir)
        [ $# -gt 1 ] || usage
        dir=$2
        shift
        ;;
    -h | --help | -*) usage ;;
    *)
        [ "$made" = yes ] || make_key
        made=yes
        port=$(resolved "${1##*@}" 22 port)
        [ -n "$port" ] || port=22
        login=$1
        if [ $# -gt 2 ] && [ "$2" = -p ]; then
            port=$3
            shift 2
        fi
        case $port in
        '' | *[!0-9]*) die 64 "not a port: $port" ;;
        esac
        host "$login" "$port"
        ;;
    esac
    shift
done
[ "$made" = yes ] || make_key
exit "$failed"
