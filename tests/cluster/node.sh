# shellcheck shell=bash
# The real node: containerd, kubelet, kube-proxy, DNS and a bridge network on this machine. Sourced by `cluster`.
#
# What the machine had before is written to $record when the node starts, and put back when it goes.
# There can be one real node at a time, because bridge, rules and ports are the machine's; $record is the claim.

record=/run/opentiger-node
bridge=ott0
pod_cidr=10.244.0.0/24
socket=$state/run/containerd.sock
# Directories that containerd, CNI plugins, kubelet and buildah make outside the state directory.
strays="/opt/containerd /run/containerd /run/kubernetes /run/netns /etc/cni /var/lib/cni /var/lib/kubelet /var/lib/kube-proxy /var/log/containers /var/log/pods"
settings="net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables net.ipv4.conf.all.route_localnet vm.overcommit_memory vm.panic_on_oom
  kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes
  net.netfilter.nf_conntrack_tcp_timeout_established net.netfilter.nf_conntrack_tcp_timeout_close_wait"

# An image engine, unless there is one that works.
need_images() { "$here/../../images/build" --engine-name >/dev/null 2>&1 || need buildah mmdebstrap; }

node() {
  if [ -n "$current" ]; then say "CLUSTER=current: its own nodes are used; push or load the images yourself (make images, IMAGE_PREFIX=...)"; return 0; fi
  [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ] || die "a real node needs root on Linux; use CLUSTER=current with a cluster of your own, or the control plane alone"
  ready >/dev/null 2>&1 || die "no control plane '$name': run 'cluster up' first"
  if [ "$(cat "$record/state" 2>/dev/null)" = "$state" ] && [ -n "$(mine '*/kubelet *')" ]; then say "$node_name is up"; return 0; fi
  need containerd runc bridge-plugin iptables nft ip sysctl buildah
  claim
  local ip cni_bin=/usr/lib/cni
  [ -x $cni_bin/bridge ] || cni_bin=/opt/cni/bin
  ip=$(ip -4 route get 192.0.2.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')
  [ -n "$ip" ] || ip=$(hostname -I | awk '{print $1}')
  [ -n "$ip" ] || die "this machine has no IPv4 address to give to the node"
  mkdir -p "$state"/{cni,containerd,run,kubelet,loaded}
  modprobe br_netfilter 2>/dev/null || true
  sysctl -qw net.ipv4.ip_forward=1
  sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
  node_config "$ip" "$cni_bin"
  rules

  start containerd containerd -c "$state/containerd.toml"
  wait_for 20 "containerd's start" ctr -a "$socket" version
  [ -e "$bin/pause.tar" ] || pause_image
  ctr -a "$socket" -n k8s.io image import "$bin/pause.tar" >/dev/null
  start kubelet "$bin/kubelet" --config "$state/kubelet.yaml" --kubeconfig "$admin" --root-dir "$state/kubelet" \
    --cert-dir "$state/kubelet-pki" --hostname-override $node_name --node-ip "$ip"
  start kube-proxy "$bin/kube-proxy" --kubeconfig "$admin" --hostname-override $node_name --proxy-mode iptables \
    --cluster-cidr $pod_cidr --conntrack-max-per-core 0
  start coredns "$bin/coredns" -conf "$state/Corefile"
  dns "$ip" | kubectl apply -f - >/dev/null
  wait_for 60 "the node's registration" kubectl get node $node_name
  kubectl wait --for=condition=Ready node/$node_name --timeout=60s >/dev/null || die "the node did not become ready; logs are in $state"
  # Kept apart from simulated nodes of the same control plane.
  kubectl label --overwrite node $node_name opentiger.dev/real=true >/dev/null
}

# claim: one real node at a time; what a dead one left is removed first.
claim() {
  if ! mkdir "$record" 2>/dev/null; then
    local owner; owner=$(cat "$record/state" 2>/dev/null || true)
    if [ -n "$owner" ] && [ -n "$(state=$owner mine)" ] && [ "$owner" != "$state" ]; then
      die "another real node is up on this machine (state in $owner): stop it first with CLUSTER_NAME=$(cat "$record/name") $here/cluster down"
    fi
    say "removing what an earlier node left"
    node_down "$owner"
    mkdir "$record"
  fi
  if iptables-save 2>/dev/null | grep -q '^:KUBE-' || [ -n "$(compgen -G '/sys/fs/cgroup/*/kubepods')$(compgen -G '/sys/fs/cgroup/kubepods')" ]; then
    rm -rf "$record"
    die "a Kubernetes node that is not ours runs on this machine; use CLUSTER=current"
  fi
  local p
  for p in $strays; do [ -e "$p" ] || echo "$p"; done >"$record/absent"
  ls /run/netns >"$record/netns" 2>/dev/null || true
  nft list tables >"$record/tables" 2>/dev/null || true
  for p in $settings; do sysctl -e "$p" 2>/dev/null || true; done >"$record/settings"
  echo "$name" >"$record/name"
  echo "$state" >"$record/state"
}

node_config() {
  local ip=$1 cni_bin=$2
  cat >"$state/cni/10-bridge.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "opentiger", "plugins": [
 {"type": "bridge", "bridge": "$bridge", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$state/ipam", "ranges": [[{"subnet": "$pod_cidr"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
  cat >"$state/containerd.toml" <<TOML
version = 2
root = "$state/containerd"
state = "$state/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "$socket"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:3"
  restrict_oom_score_adj = true   # without CAP_SYS_RESOURCE runc dies with "can't get final child's PID from pipe"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$cni_bin"
    conf_dir = "$state/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
TOML
  # What cluster DNS does not know goes where the machine's own lookups go.
  cat >"$state/Corefile" <<COREDNS
.:10053 {
  bind $ip
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $admin
  }
  forward . /etc/resolv.conf
}
COREDNS
  echo "nameserver $ip" >"$state/resolv.conf"
  cat >"$state/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false               # machines with cgroup v1 will do
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
oomScoreAdj: 0                    # lowering it needs CAP_SYS_RESOURCE
containerRuntimeEndpoint: unix://$socket
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: ["10.96.0.10"]
clusterDomain: cluster.local
resolvConf: $state/resolv.conf
failSwapOn: false
makeIPTablesUtilChains: false
evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}
imageGCHighThresholdPercent: 100
podLogsDir: $state/podlogs
maxPods: 200
serializeImagePulls: false
shutdownGracePeriod: 0s
YAML
}

dns() {
  cat <<YAML
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  ports:
  - {name: dns, port: 53, protocol: UDP, targetPort: 10053}
  - {name: dns-tcp, port: 53, protocol: TCP, targetPort: 10053}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports:
- {name: dns, port: 10053, protocol: UDP}
- {name: dns-tcp, port: 10053, protocol: TCP}
endpoints: [{addresses: [$1], conditions: {ready: true}}]
YAML
}

# Pods reach each other and the world also where FORWARD is closed. Each rule carries a comment, by which it is removed.
rules() {
  local tag=(-m comment --comment opentiger-cluster)
  iptables -w -I FORWARD -i $bridge "${tag[@]}" -j ACCEPT
  iptables -w -I FORWARD -o $bridge "${tag[@]}" -j ACCEPT
  iptables -w -t nat -A POSTROUTING -s $pod_cidr ! -d $pod_cidr "${tag[@]}" -j MASQUERADE
}

pause_image() {
  local d; d=$(mktemp -d)
  cp "$here/pause/Dockerfile" "$bin/pause" "$d"
  "$here/../../images/build" --engine buildah --dir "$d" --tag localhost/pause:3
  "$here/../../images/build" --engine buildah --save "$bin/pause.tar.$$" --tag localhost/pause:3
  mv "$bin/pause.tar.$$" "$bin/pause.tar"
  rm -rf "$d"
}

# load TAG...: from the image engine into the node; an image that is there already is skipped.
load() {
  if [ -n "$current" ]; then say "CLUSTER=current: push or load ${*} yourself"; return 0; fi
  [ -S "$socket" ] || die "no real node: run 'cluster node' first"
  local tag tar id seen
  for tag in "$@"; do
    [[ $tag == *:* ]] || tag=$tag:${IMAGE_TAG:-dev}
    id=$("$here/../../images/build" --id --tag "$tag")
    seen=$state/loaded/${tag//[\/:]/_}
    [ "$(cat "$seen" 2>/dev/null)" != "$id" ] || continue
    tar=$(mktemp -u "$state/image-XXXXXX").tar
    "$here/../../images/build" --save "$tar" --tag "$tag"
    ctr -a "$socket" -n k8s.io image import "$tar" >/dev/null
    rm -f "$tar"
    echo "$id" >"$seen"
  done
}

# without_ours TOOL: the tool's rules without those of kube-proxy and of ours, put back in one step for each table.
without_ours() {
  command -v "$1-save" >/dev/null || return 0
  local rules; rules=$("$1-save" -c 2>/dev/null | grep -v '^#' || true)
  if grep -qE 'KUBE-|opentiger-cluster' <<<"$rules"; then
    grep -vE 'KUBE-|opentiger-cluster' <<<"$rules" | "$1-restore" -w -c || true
  fi
}

# empty_tables: removes the tables that came with the rules (nftables variant of iptables), once nothing is in them.
empty_tables() {
  command -v nft >/dev/null || return 0
  local word family table save
  nft list tables 2>/dev/null | grep -vxFf "$record/tables" | while read -r word family table; do
    case $family in ip) save=iptables-save ;; ip6) save=ip6tables-save ;; *) continue ;; esac
    $save -t "$table" 2>/dev/null | grep -qE '^-A|^:[^ ]+ (-|DROP)' || nft delete "$word" "$family" "$table" || true
  done
}

# node_down [STATE]: everything of the node started from STATE, whether it still lives or not.
node_down() {
  local owner=${1:-$state} p t left
  [ "$(cat "$record/state" 2>/dev/null)" = "$owner" ] || return 0
  # The kubelet first, so that nothing is started again; then containers by their cgroup, then the rest by their mark.
  # shellcheck disable=SC2046
  for p in '*/kubelet *' '*containerd *' '*'; do kill -KILL $(state=$owner mine "$p") 2>/dev/null || true; done
  for _ in $(seq 50); do
    left=$(cat $(find /sys/fs/cgroup -path '*/kubepods/*' -name cgroup.procs 2>/dev/null) /dev/null 2>/dev/null || true)
    # shellcheck disable=SC2086
    [ -z "$left" ] || kill -KILL $left 2>/dev/null || true
    find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
    if [ -z "$left" ] && [ -z "$(find /sys/fs/cgroup -type d -name kubepods 2>/dev/null)" ]; then break; fi
    sleep 0.1
  done
  for t in $(ls /run/netns 2>/dev/null | grep '^cni-' | grep -vxFf "$record/netns" || true); do
    umount -l "/run/netns/$t" 2>/dev/null || true
    rm -f "/run/netns/$t"
  done
  awk -v s="$owner/" 'index($2, s) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
  for p in $(ip -o link show master $bridge 2>/dev/null | sed -n 's/^[0-9]*: \([^@:]*\).*/\1/p'); do ip link del "$p" 2>/dev/null || true; done
  ip link del $bridge 2>/dev/null || true
  without_ours iptables
  without_ours ip6tables
  empty_tables
  while read -r p; do [ -z "$p" ] || sysctl -qw "${p/ = /=}" 2>/dev/null || true; done <"$record/settings"
  while read -r p; do
    awk -v s="$p/" 'index($2, s) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
    umount -l "$p" 2>/dev/null || true
    rm -rf --one-file-system "$p"
  done <"$record/absent"
  rm -rf /var/lib/cni/results/opentiger-* "$record"
}
