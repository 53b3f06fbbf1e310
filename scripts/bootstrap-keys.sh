#!/bin/sh
# Makes the cluster's own SSH key and installs it on hosts, without coord.
#
#   scripts/bootstrap-keys.sh [--yes] [--dir keys] [--restrict [--agent-dir DIR]] user@host [-p PORT] ...
#
# For each host: its key is fetched, shown and, after a yes, pinned in keys/known_hosts; then our public key is
# appended to ~/.ssh/authorized_keys there through whatever login works already (your own keys, or a password that
# ssh asks for). Doing it again changes nothing. The private key never leaves this machine.
#
# Names of ~/.ssh/config work. Where one is reached through a jump, ssh itself asks for the host's key.
# --restrict: the key may do nothing but run the worker's bridge. The worker of the host's kind of machine is sent along
# from artifacts/workers (or $COORD_WORKERS); DIR is the host's `dir:` in the cluster file (default ~/.coord).
# Further options of the ssh that installs the key may stand in COORD_SSH_OPTIONS.
# --yes accepts unknown host keys without asking; a key that has CHANGED is refused all the same.
# Exit codes: 0 all hosts done, 64 wrong usage, 66 no worker for a host, 69 a host did not answer, 77 a key was refused.
set -eu

dir=keys
yes=no
restrict=no
agent_dir=\~/.coord
failed=0

say() { printf '%s\n' "$*" >&2; }
die() { code=$1; shift; say "bootstrap-keys: error: $*"; exit "$code"; }
usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 64; }

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

# The same with words before the key; other lines of the key go, since one that allows all would make them void.
# shellcheck disable=SC2016 # expanded there, not here
restricter='umask 077; IFS= read -r line || exit 1
key=$(printf "%s\n" "$line" | sed "s/.*\(ssh-ed25519 [^ ]*\).*/\1/"); [ -n "$key" ] || exit 1
mkdir -p "$HOME/.ssh" || exit 1; file=$HOME/.ssh/authorized_keys
if [ -f "$file" ] && [ "$(grep -F -- "$key" "$file")" = "$line" ]; then echo present; exit 0; fi
new=$file.coord-new
{ if [ -f "$file" ]; then grep -vF -- "$key" "$file"; fi; printf "%s\n" "$line"; } > "$new" || exit 1
chmod 600 "$new" && mv -f "$new" "$file" && echo installed'

# Names the cluster on its hosts; made once, as coord does.
cluster_id() {
    file=$(dirname "$dir")/artifacts/cluster-id
    if [ ! -f "$file" ]; then
        mkdir -p "$(dirname "$file")"
        od -An -N6 -tx1 /dev/urandom | tr -d ' \n' > "$file"
        echo >> "$file"
    fi
    head -n 1 "$file"
}

# entry PROGRAM: what a login with a restricted key runs, whatever it asks for.
entry() {
    cat <<TEXT
#!/bin/sh
# Written by \`coord keys bootstrap --restrict\`. A login with the restricted key runs this, whatever it asks for.
root=\$(CDPATH='' cd -- "\$(dirname -- "\$0")/.." && pwd) || exit 69
worker=\$root/bin/$1
case \${SSH_ORIGINAL_COMMAND-} in
*coord-entry-version*)
    echo 'coord-entry 1 $1'
    exit 0
    ;;
esac
"\$worker" start --directory "\$root" --cluster "\$(basename -- "\$root")" </dev/null >/dev/null || exit
exec "\$worker" bridge --directory "\$root"
TEXT
}

# send FILE-THERE SSH-WORDS...: standard input becomes a program there, whole or not at all.
send() {
    there=$1
    shift
    # shellcheck disable=SC2029,SC2086 # the file's name goes over as it is; several options, in words
    ssh ${COORD_SSH_OPTIONS:-} "$@" "exec /bin/sh -c 'umask 077; mkdir -p \"\${1%/*}\" && cat > \"\$1.new\" && \
        chmod 755 \"\$1.new\" && mv -f \"\$1.new\" \"\$1\"' sh $there"
}

# install_restricted LOGIN PORT STRICT
install_restricted() {
    login=$1
    set -- -p "$2" -o "UserKnownHostsFile=$dir/known_hosts" -o "StrictHostKeyChecking=$3" -o HashKnownHosts=no \
        -o ConnectTimeout=20
    # shellcheck disable=SC2086 # several options, in words
    if ! machine=$(ssh ${COORD_SSH_OPTIONS:-} "$@" -- "$login" uname -sm </dev/null); then
        say "bootstrap-keys: error: cannot log in as $login to install the key"
        return 77
    fi
    worker=${COORD_WORKERS:-$(dirname "$dir")/artifacts/workers}/${machine#* }-unknown-linux-gnu/coord-worker
    if [ "${machine%% *}" != Linux ] || [ ! -f "$worker" ]; then
        say "bootstrap-keys: error: $login is '$machine', and there is no $worker"
        say ""
        say "hint: scripts/build-worker on a machine of that kind makes it"
        return 66
    fi
    program=coord-worker-$(sha256sum < "$worker" | cut -c 1-12)
    # shellcheck disable=SC2016 # expanded there, not here
    case $agent_dir in
    \~/*) root='"$HOME"'/${agent_dir#\~/}/$(cluster_id) ;;
    *) root=$agent_dir/$(cluster_id) ;;
    esac
    if ! send "$root/bin/$program" "$@" -- "$login" < "$worker" ||
        ! entry "$program" | send "$root/bin/coord-entry" "$@" -- "$login"; then
        say "bootstrap-keys: error: $login: cannot write the worker to $agent_dir"
        return 77
    fi
    line="restrict,command=\"$(printf '%s' "$root/bin/coord-entry" | sed 's/"/\\"/g')\" $(cat "$dir/coord_ed25519.pub")"
    # shellcheck disable=SC2086 # several options, in words
    if ! outcome=$(printf '%s\n' "$line" | ssh ${COORD_SSH_OPTIONS:-} "$@" -- "$login" "exec /bin/sh -c '$restricter'"); then
        say "bootstrap-keys: error: cannot install the key as $login"
        return 77
    fi
    answer=$(ssh "$@" -o BatchMode=yes -o IdentitiesOnly=yes -i "$dir/coord_ed25519" -- "$login" coord-entry-version </dev/null) ||
        answer=
    case $answer in
    "coord-entry 1 $program") say "$login: $(printf '%s\n' "$outcome" | tail -n 1), restricted to the worker's bridge" ;;
    *)
        say "bootstrap-keys: error: $login: the key was installed with its restriction, but does something else"
        say ""
        say "hint: look for another line of the key in ~/.ssh/authorized_keys there"
        return 77
        ;;
    esac
}

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
    if [ "$code" -eq 0 ] && [ "$restrict" = yes ]; then
        install_restricted "$1" "$2" "$strict" || code=$?
    elif [ "$code" -eq 0 ]; then
        install "$1" "${1##*@}" "$2" "$strict" || code=$?
    fi
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
    --restrict) restrict=yes ;;
    --agent-dir)
        [ $# -gt 1 ] || usage
        agent_dir=${2%/}
        case $agent_dir in
        *[!A-Za-z0-9_./~@:,-]* | '') die 64 "--agent-dir may have letters, digits and _ . / ~ @ : , - only: $2" ;;
        esac
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
