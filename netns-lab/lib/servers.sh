# shellcheck shell=bash
# The words a scenario uses for what its nodes serve. The servers begin side by side; `await_servers` returns when all
# answer.

# Those to wait for, and the sockets of each node when they were last looked at meanwhile.
awaited=()
declare -A sockets=()

# serve NAME NODE tcp|udp PORT COMMAND...: runs a server of this port in the node.
serve() {
    start "$1" "$2" "${@:5}"
    awaited+=("${*:1:4}")
}

await_servers() {
    local record name node kind port
    for record in "${awaited[@]}"; do
        read -r name node kind port <<< "$record"
        wait_ready "$name" listens "$node" "$kind" "$port"
    done
    awaited=() sockets=()
}

# listens NODE tcp|udp PORT: something in the node has the port.
listens() {
    local pattern=$'(^|\n)'"$2 [^"$'\n'"]*:$3 "
    [[ ${sockets[$1]:-} =~ $pattern ]] || {
        sockets[$1]=$(ip netns exec "$(namespace "$1")" ss -Hltun)
        [[ ${sockets[$1]} =~ $pattern ]]
    }
}

# serve_nginx NODE PORT: HTTP. `/` answers the node's name; `/files/X` is $run/files/X, the same on every server;
# PUT /upload/X stores into $run/NODE/upload/X, of any size.
serve_nginx() {
    local node=$1 port=$2 home=$run/$1
    mkdir -p "$home/upload" "$home/tmp" "$run/files"
    cat > "$home/nginx.conf" << CONF
user root;
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid "$home/nginx.pid";
error_log stderr warn;
events { worker_connections 8192; }
http {
    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 100000000;
    client_max_body_size 0;
    client_body_temp_path "$home/tmp/body";
    proxy_temp_path "$home/tmp/proxy";
    fastcgi_temp_path "$home/tmp/fastcgi";
    uwsgi_temp_path "$home/tmp/uwsgi";
    scgi_temp_path "$home/tmp/scgi";
    default_type text/plain;
    server {
        listen [::]:$port ipv6only=off backlog=4096;
        location / { return 200 "$node\n"; }
        location /files/ { alias "$run/files/"; }
        location /upload/ { alias "$home/upload/"; dav_methods PUT; }
    }
}
CONF
    serve "nginx-$node" "$node" tcp "$port" nginx -p "$home" -e stderr -c "$home/nginx.conf"
}

# serve_dnsmasq NODE PORT: DNS over UDP and TCP. The TXT record of `server.lab` is the node's name.
serve_dnsmasq() {
    local node=$1 port=$2
    serve "dnsmasq-$node" "$node" udp "$port" dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user=root \
        --no-resolv --no-hosts --log-facility=- --port="$port" --txt-record="server.lab,$node"
}

# serve_echo NODE PORT ADDRESS...: sends each UDP datagram, of up to 65,507 bytes, back from the address it was sent to.
serve_echo() {
    local node=$1 port=$2 addresses
    shift 2
    mapfile -t addresses < <(wanted_of "$@")
    serve "echo-$node" "$node" udp "$port" perl "$lab_home/lib/udp-echo" "$port" "${addresses[@]}"
}

# serve_vsftpd NODE PORT: FTP without a password. `name` has the node's name in it; all is in $run/NODE/ftp, and what is
# put into `upload` is stored there, of any size. Active data connections come from the port below.
serve_vsftpd() {
    local node=$1 port=$2 home=$run/$1
    mkdir -p "$home/ftp/upload" "$home/empty"
    chown ftp "$home/ftp/upload"
    echo "$node" > "$home/ftp/name"
    cat > "$home/vsftpd.conf" << CONF
background=NO
listen_ipv6=YES
listen_port=$port
ftp_data_port=$((port - 1))
connect_from_port_20=YES
anonymous_enable=YES
no_anon_password=YES
anon_root=$home/ftp
write_enable=YES
anon_upload_enable=YES
anon_umask=022
secure_chroot_dir=$home/empty
pasv_min_port=50000
seccomp_sandbox=NO
CONF
    serve "vsftpd-$node" "$node" tcp "$port" vsftpd "$home/vsftpd.conf"
}

# decapsulate NODE PORT: takes packets out of tunnels, those of GUE on the UDP port. They arrive on the device `tunnel`;
# with LAB_TUNNELS=kernel, on the kernel's own, which do not take GRE with checksums.
decapsulate() {
    local node=$1 port=$2
    if [[ ${LAB_TUNNELS:-} == kernel ]]; then
        kernel_tunnels "$node" "$port"
        return
    fi
    serve "decapsulate-$node" "$node" udp "$port" perl "$lab_home/lib/decapsulate" tunnel "$port"
}

# The devices that every namespace has when the modules are there; GUE leads to them.
kernel_tunnels() {
    local namespace device
    namespace=$(namespace "$1")
    settle
    modprobe -a ipip sit ip6_tunnel ip_gre ip6_gre fou fou6 || die "this kernel has no tunnels; the VM's has: lab vm"
    ip netns exec "$namespace" ip -6 tunnel change ip6tnl0 mode any
    for device in tunl0 sit0 ip6tnl0 gre0 ip6gre0; do
        ip -n "$namespace" link set "$device" up
        ip netns exec "$namespace" sysctl -qw "net.ipv4.conf.$device.rp_filter=0"
    done
    ip netns exec "$namespace" ip fou add port "$2" gue
    ip netns exec "$namespace" ip -6 fou add port "$2" gue
}

# serve_iperf3 NODE PORT: throughput.
serve_iperf3() {
    local node=$1 port=$2
    serve "iperf3-$node" "$node" tcp "$port" iperf3 --server --port "$port"
}

# serve_sink NODE PORT: appends all that comes over TCP to $run/NODE/sink.
serve_sink() {
    local node=$1 port=$2
    mkdir -p "$run/$node"
    : > "$run/$node/sink"
    serve "sink-$node" "$node" tcp "$port" socat -u "TCP6-LISTEN:$port,ipv6only=0,fork,reuseaddr" "OPEN:$run/$node/sink,creat,append"
}

# ask NAME ADDRESS PORT ADDRESS:PORT: asks a virtual service from c1 in the way its name calls for, and prints who
# answered, or what was answered. Fails when nobody did.
ask() {
    local name=$1 address=$2 port=$3 endpoint=$4 client
    client=$(namespace c1)
    case $name in
        ftp*) ip netns exec "$client" curl -sS --max-time 10 "ftp://$endpoint/name" ;;
        web* | local*) ip netns exec "$client" curl -sS --max-time 10 "http://$endpoint/" ;;
        dns*) ip netns exec "$client" dig +short +tries=1 +time=10 -p "$port" "@$address" server.lab TXT | tr -d '"' ;;
        echo*)
            # shellcheck disable=SC2016
            ip netns exec "$client" bash -c '
                exec {socket}<> "/dev/udp/$0/$1" && echo hello >&$socket && timeout 10 head -n 1 <&$socket
            ' "$address" "$port"
            ;;
        iperf3*)
            ip netns exec "$client" iperf3 --client "$address" --port "$port" --bytes 1M > /dev/null && echo transferred
            ;;
        sink*)
            head -c 32 /dev/urandom > "$run/sent"
            ip netns exec "$client" socat -u - "TCP:$endpoint" < "$run/sent" && sink_has "$run/sent" && echo arrived
            ;;
        *) die "nobody knows how to ask $name" ;;
    esac
}

# sink_has FILE: waits until the last thing a sink got is the file.
sink_has() {
    local sink deadline=$((SECONDS + 10))
    while ((SECONDS < deadline)); do
        for sink in "$run"/*/sink; do
            ! cmp -s "$1" <(tail -c "$(stat -c %s "$1")" "$sink") || return 0
        done
        sleep 0.02
    done
    return 1
}
