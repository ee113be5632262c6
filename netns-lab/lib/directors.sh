# shellcheck shell=bash
# The two directors of the scenario `pair`, each of them the kernel's IPVS or nfvs, which synchronise.
#
# It brings the library of the lab. Whoever reads it in writes the services of both to /out/nfvs.json.
# shellcheck source=netns-lab/lib/process.sh
source "$lab_home/lib/process.sh"
# shellcheck source=netns-lab/lib/topology.sh
source "$lab_home/lib/topology.sh"
# shellcheck source=netns-lab/lib/servers.sh
source "$lab_home/lib/servers.sh"
# shellcheck source=netns-lab/lib/balancer.sh
source "$lab_home/lib/balancer.sh"

# `forwarding` and `vip` ask for these: no unit prepares a director, and scenarios of the VM give it its addresses.
# shellcheck disable=SC2034
balancer=none vip_mode=none
lab=$lab_home/lab nfvs=${lab_home%/*}/target/release/nfvs

declare -A peer=([director]=second [second]=director) daemons=()

# begin KIND NODE VERSION ROLE...: has the node balance, with these sides of the synchronisation: master, backup, or both.
# What only nfvs can do of it is $sync_options, in JSON. With $refresh, it tells every so many seconds of a connection that goes on as it was, instead of by counting packets.
begin() {
    local kind=$1 node=$2 version=$3 device=${peer[$2]} role
    shift 3
    case $kind in
        kernel)
            $lab exec "$node" -- sysctl -qw net.ipv4.vs.sync_version="$version"
            [[ ! -v refresh ]] ||
                $lab exec "$node" -- sysctl -qw net.ipv4.vs.sync_refresh_period="$refresh" net.ipv4.vs.sync_threshold='0 0'
            ipvs_rules /out/nfvs.json | $lab exec "$node" -- ipvsadm --restore
            for role in "$@"; do
                $lab exec "$node" -- ipvsadm --start-daemon "$role" --mcast-interface "$device" --syncid 7
            done
            ;;
        nfvs)
            jq --arg device "$device" --argjson version "$version" --argjson refresh "${refresh:-null}" \
                --argjson options "${sync_options:-null}" '
                .sync = reduce $ARGS.positional[] as $role ({ version: $version } + $options; .[$role] = { interface: $device, syncid: 7 })
                | if $refresh then .tunables += { sync_refresh_period: $refresh, sync_threshold: [0, 0] } else . end' /out/nfvs.json --args "$@" > "/out/$node.json"
            $lab exec "$node" -- "$nfvs" run --config "/out/$node.json" --socket "/out/$node.sock" 2> "/out/$node.log" &
            daemons[$node]=$!
            until "$nfvs" show services --socket "/out/$node.sock" > /dev/null 2>&1; do
                kill -0 "${daemons[$node]}" || { cat "/out/$node.log"; exit 1; }
                sleep 0.1
            done
            ;;
    esac
}

# end_all: ends the daemons in order.
end_all() {
    local node
    for node in "${!daemons[@]}"; do
        kill "${daemons[$node]}"
        wait "${daemons[$node]}" || true
    done
    daemons=()
}

# table KIND NODE: its connections, a line each.
table() {
    case $1 in
        kernel) $lab exec "$2" -- ipvsadm -Lnc --persistent-conn ;;
        nfvs) "$nfvs" show connections --socket "/out/$2.sock" ;;
    esac | awk '$1 ~ /^(TCP|UDP|SCTP|IP)$/'
}

# no_complaint: fails if IPVS has had something to say in the kernel's log since that was cleared, but for $allowed.
no_complaint() {
    if dmesg | grep -i ipvs |
        grep -vi "registered\|creating netns\|sync thread started\|stopping\|loaded support${allowed:+\|$allowed}"; then
        echo 'a kernel has complained'
        return 1
    fi
}
