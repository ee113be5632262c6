# shellcheck shell=bash
# What a lab leaves to look at: captures of its traffic, and with LAB_KEEP a copy of all its files.

# capture NODE [OPTION...]: every interface's packets, into pcap/NODE.pcap, until the lab goes down.
capture() {
    local node=$1
    shift
    start "tcpdump-$node" "$node" tcpdump --immediate-mode -i any -n -U -Z root "$@" -w "$run/pcap/$node.pcap"
    wait_ready "tcpdump-$node" grep -q 'listening on' "$run/log/tcpdump-$node"
}

# capture_heads NODE: for keeping only, so bounded: what packets begin with, in two files of at most 4 MB that replace
# each other.
capture_heads() {
    capture "$1" -s 256 -C 4 -W 2
}

# keep: copies the lab's files to a directory of their own below LAB_KEEP, when that is set. What servers serve and were
# sent may be large, and tells nothing.
keep() {
    local place
    [[ -n ${LAB_KEEP:-} ]] || return 0
    mkdir -p "$LAB_KEEP"
    place=$(mktemp -d "$LAB_KEEP/$(basename "$run").XXXXXX")
    # Sockets are nothing to keep either.
    tar -C "$run" --warning=no-file-ignored --exclude=./files --exclude='./*/upload' --exclude='./*/tmp' -cf - . | tar -C "$place" -xf -
}
