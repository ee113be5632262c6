# shellcheck shell=bash
# The words a scenario uses for nodes, links, addresses and virtual services.
#
# An address of a family the scenario does not speak (`families`) is left out wherever it stands, so that `nat4` and
# `nat6` are `nat` with one family each.

families=(4 6)

# namespace NODE: prints the network namespace of a node.
namespace() {
    echo "$LAB_NAME-$1"
}

# families 4|6...: the address families the scenario speaks; both unless told.
families() {
    families=("$@")
}

# include SCENARIO: continues with another scenario's file.
include() {
    # shellcheck source=/dev/null
    source "$lab_home/scenarios/$1"
}

# wanted ADDRESS: the scenario speaks the address's family.
wanted() {
    local family=4
    [[ $1 != *:* ]] || family=6
    [[ " ${families[*]} " == *" $family "* ]]
}

# wanted_of ADDRESS...: prints those of a family the scenario speaks.
wanted_of() {
    local address
    for address in "$@"; do
        ! wanted "$address" || echo "$address"
    done
}

# node NAME...: makes the nodes, network namespaces with the loopback up and all else at the kernel's default.
node() {
    local name namespace
    for name in "$@"; do
        namespace=$(namespace "$name")
        [[ ! -e /run/netns/$namespace ]] ||
            die "the namespace $namespace exists and is not of this lab: choose another LAB_NAME, or remove it"
        echo "$name" >> "$run/nodes"
        ip netns add "$namespace"
        ip -n "$namespace" link set lo up
    done
}

# forwarding NODE...: makes routers of the nodes. No other sysctl is touched anywhere.
forwarding() {
    local name
    for name in "$@"; do
        # shellcheck disable=SC2016
        ip netns exec "$(namespace "$name")" bash -c '
            [[ " $1 " != *" 4 "* ]] || echo 1 > /proc/sys/net/ipv4/ip_forward
            [[ " $1 " != *" 6 "* ]] || echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
        ' - "${families[*]}"
    done
}

# link [--mtu BYTES] NODE ADDRESS... -- NODE ADDRESS...: joins two nodes. Each end is named after the node on the
# other side, so that `tcpdump -i s1` in the director shows the traffic with s1. The ends' link-local addresses are
# fe80::1 and fe80::2.
link() {
    local mtu=1500 left right addresses=()
    if [[ $1 == --mtu ]]; then
        mtu=$2
        shift 2
    fi
    left=$1
    shift
    while [[ $1 != -- ]]; do
        addresses+=("$1")
        shift
    done
    shift
    right=$1
    shift
    ip -n "$(namespace "$left")" link add "$right" mtu "$mtu" type veth \
        peer name "$left" mtu "$mtu" netns "$(namespace "$right")"
    raise "$left" "$right" fe80::1/64 "${addresses[@]}"
    raise "$right" "$left" fe80::2/64 "$@"
}

# raise NODE INTERFACE ADDRESS...: takes an interface up with exactly these addresses.
raise() {
    local namespace
    namespace=$(namespace "$1")
    ip -n "$namespace" link set "$2" addrgenmode none
    ip -n "$namespace" link set "$2" up
    address "$@"
}

# address NODE INTERFACE ADDRESS...: adds addresses; duplicate address detection is off, so they are usable at once.
address() {
    local node=$1 interface=$2 address nodad
    shift 2
    for address in $(wanted_of "$@"); do
        nodad=()
        [[ $address != *:* ]] || nodad=(nodad)
        ip -n "$(namespace "$node")" address add "$address" dev "$interface" "${nodad[@]}"
    done
}

# route NODE DESTINATION via ADDRESS: adds a route.
route() {
    local family=-4
    wanted "$4" || return 0
    [[ $4 != *:* ]] || family=-6
    ip -n "$(namespace "$1")" "$family" route add "$2" via "$4"
}

# gateway NODE ADDRESS...: the default route, one for each family.
gateway() {
    local node=$1 address
    shift
    for address in "$@"; do
        route "$node" default via "$address"
    done
}

# vip NODE ADDRESS...: the virtual addresses, which clients reach on the director's link to NODE. They are configured
# there with `up --vip local`, and nowhere otherwise.
vip() {
    local interface=$1
    shift
    wanted_of "$@" >> "$run/vips"
    [[ $vip_mode == local ]] || return 0
    address director "$interface" "$@"
}

# service NAME PROTOCOL VIP:PORT SCHEDULER SERVER:PORT...: a virtual service for the daemon's configuration.
service() {
    wanted "${3%:*}" || return 0
    # shellcheck disable=SC2016
    jq -n --arg name "$1" --arg protocol "$2" --arg virtual "$3" --arg scheduler "$4" '
        def endpoint: capture("^\\[?(?<address>[0-9a-f.:]+?)\\]?:(?<port>[0-9]+)$") | .port |= tonumber;
        { name: $name, protocol: $protocol } + ($virtual | endpoint) + { scheduler: $scheduler }
        + { servers: [$ARGS.positional[] | endpoint] }
    ' --args "${@:5}" >> "$run/services"
}
