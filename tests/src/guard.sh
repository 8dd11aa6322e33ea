# Outlives the test process for a moment, however that ends: kills the processes it left running and
# removes its folder. Reads `watch PID`, `forget PID` and `keep` until the test process is gone.
trap '' HUP INT TERM
declare -A pids=()
keep=
while read -r verb argument; do
  case $verb in
    watch) pids[$argument]=1 ;;
    forget) unset "pids[$argument]" ;;
    keep) keep=1 ;;
  esac
done
for pid in "${!pids[@]}"; do
  kill -9 "$pid"
done
[[ -n $keep ]] || rm -rf "$1"
