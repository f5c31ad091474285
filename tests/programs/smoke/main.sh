set -euo pipefail
directory=$(mktemp -d)
cd "$directory"
printf 'one\ntwo\nthree\n' > file
sort -r file | head -n 1 | tr a-z A-Z | grep -q TWO
ln -s file link; cp link copy; mv copy moved; chmod 600 moved; touch -d yesterday moved
[ "$(wc -l < file)" = 3 ] && [ -L link ] && test -s moved
find . -type f -name 'm*' -exec rm {} +
seq 1000 | awk '{ sum += $1 } END { exit sum != 500500 }'
sed -i s/one/ONE/ file; grep -c ONE file > /dev/null
tar -cf - file | tar -tf - > /dev/null
gzip -c file | gunzip > /dev/null
diff <(echo a) <(echo a)
{ sleep 0.01; echo late; } > later & wait $!
coproc cat; echo x >&"${COPROC[1]}"; read -r word <&"${COPROC[0]}"; [ "$word" = x ]; kill "$COPROC_PID"; wait "$COPROC_PID" || true
trap 'seen=1' USR1; kill -USR1 $$; [ "$seen" = 1 ]
timeout 0.05 sleep 5 || [ $? = 124 ]
(ulimit -c 0; exit 3) || [ $? = 3 ]
declare -A map=([a]=1); [ "${map[a]}" = 1 ]; [[ abc =~ ^a(.)c$ ]] && [ "${BASH_REMATCH[1]}" = b ]
xargs -n 1 -P 2 true < file
date > /dev/null; id > /dev/null; uname -a > /dev/null; nproc > /dev/null; df . > /dev/null; du -s . > /dev/null; ls -la > /dev/null
cd /; rm -r "$directory"
read -r line; echo "$line" "$@"; echo bad >&2
echo 'done'
