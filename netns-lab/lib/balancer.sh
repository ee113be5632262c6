# shellcheck shell=bash
# Who balances in the director. $run/balancer names it:
#
#   nfvs   the daemon of this checkout, started by the lab
#   unit   the installed package's, as nfvs@NAMESPACE of systemd
#   ipvs   the kernel's IPVS, the yardstick
#   none   nobody
#
# All are set up from $run/nfvs.json.

find_daemon() {
    local root=${lab_home%/*} binary
    local target=${CARGO_TARGET_DIR:-$root/target}
    for binary in ${NFVS_BIN+"$NFVS_BIN"} "$target/release/nfvs" "$target/debug/nfvs"; do
        if [[ -x $binary ]]; then
            readlink -f "$binary"
            return
        fi
        [[ ! -v NFVS_BIN ]] || die "NFVS_BIN=$NFVS_BIN is no executable file"
    done
    die "no nfvs binary: build it (cargo build --release), set NFVS_BIN, or use --no-daemon"
}

# need_balancer NAME: fails unless this machine has it.
need_balancer() {
    case $1 in
        nfvs) find_daemon > /dev/null ;;
        unit)
            [[ -d /run/systemd/system ]] || die "no systemd runs here; the VM has one: lab vm"
            systemctl cat nfvs@.service > /dev/null 2>&1 || die "the package is not installed: make deb, apt install"
            ;;
        ipvs)
            command -v ipvsadm > /dev/null || die "missing: ipvsadm"
            ipvsadm -Ln > /dev/null 2>&1 || die "this kernel has no IPVS; the VM's has: lab vm"
            ;;
    esac
}

start_daemon() {
    local binary
    binary=$(find_daemon)
    start daemon - "$binary" run --config "$run/nfvs.json" --netns "$(namespace director)" --socket "$run/nfvs.sock"
    wait_ready daemon "$binary" show services --socket "$run/nfvs.sock"
}

# Ends the daemon in order and checks that it cleaned up. A daemon that died before is no concern of this.
stop_daemon() {
    [[ -e $run/pids/daemon ]] && runs daemon || return 0
    finish 10 daemon || return 1
    no_tables_left
}

no_tables_left() {
    local tables
    tables=$(ip netns exec "$(namespace director)" nft list tables | grep -w nfvs) || return 0
    echo "lab: the daemon ended, but left in the director: ${tables//$'\n'/, }" >&2
    return 1
}

# The unit has the configuration where it looks for it, and makes a router of the director itself.
start_unit() {
    local instance
    instance=$(namespace director)
    [[ ! -e /etc/nfvs/$instance.json ]] || die "/etc/nfvs/$instance.json is there already"
    ln -s "/run/nfvs/$instance.sock" "$run/nfvs.sock"
    install -D -m 644 "$run/nfvs.json" "/etc/nfvs/$instance.json"
    systemctl start "nfvs@$instance" || {
        systemctl --no-pager --lines=20 status "nfvs@$instance" >&2 || true
        die "nfvs@$instance does not start"
    }
}

# Fails when the unit did not end in good order.
stop_unit() {
    local instance result
    instance=$(namespace director)
    systemctl stop "nfvs@$instance"
    rm -f "/etc/nfvs/$instance.json"
    result=$(systemctl show --property Result --value "nfvs@$instance")
    # Or its failures would count for the next lab of this name.
    systemctl reset-failed "nfvs@$instance" 2> /dev/null || true
    [[ $result == success ]] || {
        echo "lab: nfvs@$instance did not end in good order" >&2
        return 1
    }
    no_tables_left
}

# ipvs_rules FILE: prints a configuration as `ipvsadm --restore` reads it.
#
# The file's first server is added first: IPVS puts each one before those it has, as nfvs does.
ipvs_rules() {
    jq -r '
        def endpoint: (if .address | contains(":") then "[\(.address)]" else .address end) + ":\(.port)";
        def options: if . == null then "" else " --tun-type \(.type)"
            + (if .port then " --tun-port \(.port)" else "" end)
            + { none: "", full: " --tun-csum", remote: " --tun-remcsum" }[.checksum // "none"] end;
        def what: if .fwmark then "-f \(.fwmark)" + (if .family == "ipv6" then " -6" else "" end)
            else "\({ tcp: "-t", udp: "-u", sctp: "--sctp-service" }[.protocol]) \(endpoint)" end;
        .services[] | what as $service | (.port // 0) as $port
        | "-A \($service) -s \(.scheduler // "wlc")"
          + (.persistence | if . then " -p \(.timeout // 300)" + (if .engine then " --pe \(.engine)" else "" end) else "" end)
          + (if .one_packet then " -o" else "" end),
          (.servers[] | "-a \($service) -r \({ address, port: (.port // $port) } | endpoint) "
             + "\({ nat: "-m", dr: "-g", tunnel: "-i" }[.forward // "nat"]) -w \(.weight // 1)\(.tunnel | options)")
    ' "$1"
}

start_ipvs() {
    # It reads control connections to port 21.
    modprobe ip_vs_ftp 2> /dev/null || true
    ipvs_rules "$run/nfvs.json" | ip netns exec "$(namespace director)" ipvsadm --restore ||
        die "ipvsadm refuses the services"
}

# start_balancer NAME: in the director, with the services of $run/nfvs.json.
start_balancer() {
    echo "$1" > "$run/balancer"
    case $1 in
        nfvs) start_daemon ;;
        unit) start_unit ;;
        ipvs) start_ipvs ;;
    esac
}

# Ends it, and fails when it leaves something behind. What the namespace's removal ends needs no end of its own.
stop_balancer() {
    [[ -e $run/balancer ]] || return 0
    case $(< "$run/balancer") in
        nfvs | none) stop_daemon ;;
        unit) stop_unit ;;
    esac
}

# What there is to say about who balances, for the end of a sentence.
balancer_says() {
    local instance
    instance=$(namespace director)
    case $(< "$run/balancer") in
        nfvs) sed -n 's/.* steering=\(.*\) queues=.*/; steering: \1/p' "$run/log/daemon" ;;
        unit)
            journalctl --quiet --no-pager --unit "nfvs@$instance" --since "$(systemctl show \
                --property ExecMainStartTimestamp --value "nfvs@$instance")" |
                sed -n "s/.* steering=\\(.*\\) queues=.*/; as nfvs@$instance; steering: \\1/p" | tail -n 1
            ;;
        ipvs) echo "; the kernel's IPVS balances" ;;
        none) echo ', no daemon' ;;
    esac
}

# What the balancer knows, in the same words whoever it is, without what time and chance decide (remaining lifetimes,
# the clients' ports, those of passive data connections from 50000 on): for each server its weight and the connections it got, then the connection table, counted.
balancer_state() {
    local director binary
    director=$(namespace director)
    case $(< "$run/balancer") in
        nfvs)
            binary=$(find_daemon)
            "$binary" show stats --json --socket "$run/nfvs.sock" | jq -r '
                def endpoint: (if .address | contains(":") then "[\(.address)]" else .address end) + ":\(.port)";
                .services[] | "\(.protocol) \(endpoint)" as $service | .servers[]
                | "server \($service) \(endpoint) weight \(.weight) connections \(.stats.connections)"'
            "$binary" show connections --socket "$run/nfvs.sock"
            ;;
        ipvs)
            join -j 1 -o 0,1.2,2.2 \
                <(ip netns exec "$director" ipvsadm -Sn | awk '
                    BEGIN { protocols["-t"] = "tcp"; protocols["-u"] = "udp"; protocols["--sctp-service"] = "sctp" }
                    $1 == "-a" { print protocols[$2] "/" $3 "/" $5, $8 }' | sort) \
                <(ip netns exec "$director" ipvsadm -Ln --stats --exact | awk '
                    $1 ~ /^(TCP|UDP|SCTP)$/ { service = tolower($1) "/" $2 }
                    $1 == "->" && $2 ~ /:[0-9]+$/ { print service "/" $2, $3 }' | sort) |
                sed 's|^\([a-z]*\)/\(.*\)/\(.*\) \(.*\) \(.*\)$|server \1 \2 \3 weight \4 connections \5|'
            ip netns exec "$director" ipvsadm -Lnc
            ;;
        *) die "nobody balances" ;;
    esac | awk '
        $1 == "server" { print }
        $1 ~ /^(TCP|UDP|SCTP)$/ {
            sub(/:[0-9]+$/, "", $4)
            for (column = 5; column <= 6; column++) sub(/:[56][0-9][0-9][0-9][0-9]$/, ":passive", $column)
            print "connection", $1, $3, $4, $5, $6
        }
    ' | sort | uniq -c | sed 's/^ *1 server/server/; s/^ *\([0-9]*\) connection/connections \1/'
}
