# shellcheck shell=bash
# The words a scenario uses for what its nodes serve. Every function returns when the server answers.

# listens NODE tcp|udp PORT: something in the node has the port.
listens() {
    local kind=-lt
    [[ $2 == tcp ]] || kind=-lu
    ip netns exec "$(namespace "$1")" ss -Hn "$kind" "sport = :$3" | grep -q .
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
    start "nginx-$node" "$node" nginx -p "$home" -e stderr -c "$home/nginx.conf"
    wait_ready "nginx-$node" listens "$node" tcp "$port"
}

# serve_dnsmasq NODE PORT: DNS over UDP and TCP. The TXT record of `server.lab` is the node's name.
serve_dnsmasq() {
    local node=$1 port=$2
    start "dnsmasq-$node" "$node" dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user=root \
        --no-resolv --no-hosts --log-facility=- --port="$port" --txt-record="server.lab,$node"
    wait_ready "dnsmasq-$node" listens "$node" udp "$port"
}

# serve_echo NODE PORT ADDRESS...: sends each UDP datagram, of up to 65,507 bytes, back from the address it was sent to.
serve_echo() {
    local node=$1 port=$2 addresses
    shift 2
    mapfile -t addresses < <(wanted_of "$@")
    start "echo-$node" "$node" perl "$lab_home/lib/udp-echo" "$port" "${addresses[@]}"
    wait_ready "echo-$node" listens "$node" udp "$port"
}

# serve_iperf3 NODE PORT: throughput.
serve_iperf3() {
    local node=$1 port=$2
    start "iperf3-$node" "$node" iperf3 --server --port "$port"
    wait_ready "iperf3-$node" listens "$node" tcp "$port"
}
