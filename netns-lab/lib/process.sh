# shellcheck shell=bash
# Processes of a lab: started detached, recorded as "PID START", ended only when both still match.
#
# A pid alone may come to name another process; with its start time it names one for ever. Records lie in
# $run/pids/NAME, output in $run/log/NAME.

# die MESSAGE: the one way to fail. Whatever is half built is removed by the trap of whoever builds it.
die() {
    echo "lab: $*" >&2
    exit 1
}

# read_stat PID: the fields of /proc/PID/stat after the command's name, into `stat`; fails when there is no such
# process (a zombie is none).
read_stat() {
    local line
    { line=$(< "/proc/$1/stat"); } 2> /dev/null || return 1
    read -r -a stat <<< "${line##*) }"
    [[ ${stat[0]} != Z ]]
}

# process_start PID: prints when the process started, in clock ticks after boot.
process_start() {
    local stat
    read_stat "$1" && echo "${stat[19]}"
}

# is_alive PID START: the very process that was recorded still runs.
is_alive() {
    local start
    start=$(process_start "$1") && [[ $start == "$2" ]]
}

# runs NAME: the recorded process of that name runs.
runs() {
    local pid start
    read -r pid start 2> /dev/null < "$run/pids/$1" && is_alive "$pid" "$start"
}

# start NAME NODE COMMAND...: runs a command in a node (`-`: where the lab itself runs), in a session of its own and
# without any descriptor of the caller's. The network is complete by then. An interrupt waits until the process is on
# record.
start() {
    local name=$1 node=$2 interrupted=0
    shift 2
    if [[ $node != - ]]; then
        settle
        set -- ip netns exec "$(namespace "$node")" "$@"
    fi
    trap 'interrupted=130' INT
    trap 'interrupted=143' TERM
    (
        for fd in /proc/self/fd/*; do
            fd=${fd##*/}
            ((fd <= 2)) || exec {fd}>&-
        done
        exec setsid "$@"
    ) < /dev/null > "$run/log/$name" 2>&1 &
    echo "$! $(process_start $!)" > "$run/pids/$name"
    trap 'exit 130' INT
    trap 'exit 143' TERM
    ((interrupted == 0)) || exit "$interrupted"
}

# wait_ready NAME COMMAND...: waits until the command succeeds; gives up when the process NAME ends or after 10
# seconds, with the last lines of its log.
wait_ready() {
    local name=$1 deadline=$((SECONDS + 10)) why
    shift
    until "$@" > /dev/null 2>&1; do
        if ! runs "$name"; then
            why='ended'
        elif ((SECONDS >= deadline)); then
            why='was not ready within 10 seconds'
        else
            sleep 0.02
            continue
        fi
        tail -n 20 "$run/log/$name" >&2
        die "$name $why; its last words are above"
    done
}

# within SECONDS COMMAND...: waits until the command succeeds; what it prints is of no interest.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        ((SECONDS < deadline)) || { echo "in vain: $*" >&2; return 1; }
        sleep 0.1
    done
}

# finish SECONDS NAME...: asks the recorded processes to end, waits, then forces them. Fails when force was needed.
finish() {
    local deadline=$((SECONDS + $1)) name pid start record forced=0 asked=()
    shift
    for name in "$@"; do
        while read -r pid start; do
            if is_alive "$pid" "$start" && kill -TERM "$pid" 2> /dev/null; then
                asked+=("$pid $start $name")
            fi
        done < "$run/pids/$name"
    done
    for record in "${asked[@]}"; do
        read -r pid start name <<< "$record"
        while is_alive "$pid" "$start"; do
            if ((SECONDS >= deadline)); then
                echo "lab: $name (pid $pid) did not end when asked; killed" >&2
                kill -KILL "$pid" 2> /dev/null || true
                forced=1
                break
            fi
            sleep 0.02
        done
    done
    return "$forced"
}

# finish_orphans NAMESPACE: ends what is left in a namespace of the sessions the lab started (a worker that survived
# its killed master), and waits up to 5 seconds until it is gone.
finish_orphans() {
    local pid stat deadline=$((SECONDS + 5)) left=1
    while ((left > 0 && SECONDS < deadline)); do
        left=0
        for pid in $(ip netns pids "$1"); do
            if read_stat "$pid" && grep -qs "^${stat[3]} " "$run"/pids/*; then
                kill -KILL "$pid" 2> /dev/null || true
                left=1
            fi
        done
        ((left == 0)) || sleep 0.02
    done
}
