# shellcheck shell=bash
# The words a scenario uses for nodes, links, addresses and virtual services.
#
# An address of a family the scenario does not speak (`families`) is left out wherever it stands, so that `nat4` and
# `nat6` are `nat` with one family each.
#
# These words only gather what the network is to be. It is made when something is to run in it (`settle`), by one program
# for each node instead of one for each address: a lab is up in half the time.

families=(4 6)
forward=nat
# What is still to be made: namespaces, and commands for `ip -batch`, of links and by node, those of bridges last: a port that
# joins one forwards at once only if it has a carrier. Those that are to be routers.
new_namespaces=() new_links='' routers=() bridges=()
declare -A commands=()

# plan NODE WORD...: a command that `ip` is to carry out in the node.
plan() {
    commands[$1]+="${*:2}"$'\n'
}

carry_out() {
    ip -n "$(namespace "$1")" -batch - <<< "${commands[$1]}"
}

# settle: makes what was gathered.
settle() {
    local node
    if ((${#new_namespaces[@]} > 0)); then
        printf 'netns add %s\n' "${new_namespaces[@]}" | ip -batch -
    fi
    [[ -z $new_links ]] || ip -batch - <<< "$new_links"
    for node in "${!commands[@]}"; do
        [[ " ${bridges[*]} " == *" $node "* ]] || carry_out "$node"
    done
    for node in "${bridges[@]}"; do
        carry_out "$node"
    done
    for node in "${routers[@]}"; do
        # shellcheck disable=SC2016
        ip netns exec "$(namespace "$node")" bash -c '
            [[ " $1 " != *" 4 "* ]] || echo 1 > /proc/sys/net/ipv4/ip_forward
            [[ " $1 " != *" 6 "* ]] || echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
        ' - "${families[*]}"
    done
    new_namespaces=() new_links='' routers=() bridges=() commands=()
}

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
        new_namespaces+=("$namespace")
        plan "$name" link set lo up
    done
}

# forwarding NODE...: makes routers of the nodes. No other sysctl is touched anywhere. The unit does it for its own.
forwarding() {
    local name
    for name in "$@"; do
        [[ $name == director && $balancer == unit ]] || routers+=("$name")
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
    new_links+="link add $right mtu $mtu netns $(namespace "$left") type veth"
    new_links+=" peer name $left mtu $mtu netns $(namespace "$right")"$'\n'
    raise "$left" "$right" fe80::1/64 "${addresses[@]}"
    raise "$right" "$left" fe80::2/64 "$@"
}

# raise NODE INTERFACE ADDRESS...: takes an interface up with exactly these addresses.
raise() {
    plan "$1" link set "$2" addrgenmode none
    plan "$1" link set "$2" up
    address "$@"
}

# bridge NODE NAME ADDRESS... -- INTERFACE...: joins interfaces of the node to one segment, which has the addresses.
bridge() {
    local node=$1 name=$2 addresses=() port
    shift 2
    while [[ $1 != -- ]]; do
        addresses+=("$1")
        shift
    done
    shift
    bridges+=("$node")
    plan "$node" link add "$name" type bridge
    for port in "$@"; do
        plan "$node" link set "$port" master "$name"
    done
    raise "$node" "$name" "${addresses[@]}"
}

# address NODE INTERFACE ADDRESS...: adds addresses; duplicate address detection is off, so they are usable at once.
address() {
    local node=$1 interface=$2 address nodad
    shift 2
    for address in "$@"; do
        wanted "$address" || continue
        nodad=()
        [[ $address != *:* ]] || nodad=(nodad)
        plan "$node" address add "$address" dev "$interface" "${nodad[@]}"
    done
}

# silent_address NODE ADDRESS...: addresses on the node's lo about which it answers no other node, and of which it says
# nothing itself: what a server reached by direct routing has. (IPv6 answers only for addresses of the interface asked.)
# Replies leave by another interface than requests come in: their source is not checked against routes.
silent_address() {
    local node=$1 address prefixes=()
    shift
    for address in "$@"; do
        [[ $address == *:* ]] && prefixes+=("$address/128") || prefixes+=("$address/32")
    done
    settle
    # shellcheck disable=SC2016
    ip netns exec "$(namespace "$node")" bash -c '
        cd /proc/sys/net/ipv4/conf
        echo 1 > all/arp_ignore
        echo 2 > all/arp_announce
        for file in */rp_filter; do echo 0 > "$file"; done
    '
    address "$node" lo "${prefixes[@]}"
}

# route NODE DESTINATION via ADDRESS: adds a route.
route() {
    local destination=$2
    wanted "$4" || return 0
    # Within a batch, the family is known by the addresses only.
    [[ $4 != *:* || $destination != default ]] || destination=::/0
    plan "$1" route add "$destination" via "$4"
}

# gateway NODE ADDRESS...: the default route, one for each family.
gateway() {
    local node=$1 address
    shift
    for address in "$@"; do
        route "$node" default via "$address"
    done
}

# vip INTERFACE ADDRESS...: the virtual addresses, and the director's interface that has them when they are local: the
# one towards the clients, or lo.
vip() {
    wanted_of "${@:2}" >> "$run/vips"
    echo "$1" > "$run/vip-interface"
    [[ $vip_mode == none ]] || move_vips local
}

# move_vips local|none: configures the virtual addresses on their interface, or takes them away.
move_vips() {
    local vip prefix
    while read -r vip; do
        prefix=$vip/32
        [[ $vip != *:* ]] || prefix=$vip/128
        if [[ $1 == local ]]; then
            address director "$(< "$run/vip-interface")" "$prefix"
        else
            plan director address delete "$prefix" dev "$(< "$run/vip-interface")"
        fi
    done < "$run/vips"
}

# forward nat|dr|tunnel [ipip | gre [CHECKSUM] | gue PORT [CHECKSUM]]: how packets reach the servers of the services that
# follow; nat unless told. The checksum is none, full or remote.
forward() {
    forward=$*
}

# service NAME PROTOCOL VIP:PORT SCHEDULER SERVER:PORT...: a virtual service for the daemon's configuration.
service() {
    wanted "${3%:*}" || return 0
    local IFS=$'\t'
    echo "$forward"$'\t'"$*" >> "$run/services"
}

# services: prints the configuration with those that were told.
services() {
    jq -nR '
        def endpoint: capture("^\\[?(?<address>[0-9a-f.:]+?)\\]?:(?<port>[0-9]+)$") | .port |= tonumber;
        def forward: split(" ") as [$forward, $type, $port, $checksum]
            | if $forward == "nat" then {} else { forward: $forward } end
            + if $type == null or $type == "ipip" then {}
              elif $type == "gue" then { tunnel: { type: $type, port: ($port | tonumber), checksum: ($checksum // "none") } }
              else { tunnel: { type: $type, checksum: ($port // "none") } } end;
        { services: [
            inputs / "\t" | . as [$forward, $name, $protocol, $virtual, $scheduler] | (.[5:] | map(endpoint)) as $servers
            | { name: $name, protocol: $protocol } + ($virtual | endpoint) + { scheduler: $scheduler }
              + { servers: ($servers | map(. + ($forward | forward))) }
        ] }
    ' "$run/services"
}
