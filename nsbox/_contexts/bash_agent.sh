# Runs in a sandbox as the program of a bash context: cell after cell, sourced at the top level, so that the directory,
# variables and functions live on. No line of it is trusted by anybody. Its stdin is a socket: a request is a line of quoted
# words that a NUL ends, made by nsbox/_contexts/languages.py; the reply is a frame, of which the request has all but the
# status.
exec {__nsbox_channel}<&0 0</dev/null
__nsbox_running=

# After an interrupt every command is skipped and every function and sourced file returned from (bash(1), extdebug: a DEBUG
# trap that gives 2), until this file's own lines are reached: for those, the call stack is this function and main.
__nsbox_stop() {
    ((${#FUNCNAME[@]} <= 2)) || return 2
}
__nsbox_interrupt() {
    if [[ $__nsbox_running ]]; then
        __nsbox_running=interrupted
        set -T
        shopt -s extdebug
        trap __nsbox_stop DEBUG
    fi
}

trap __nsbox_interrupt INT
printf '\x07\0\0\0\x91\xa5ready' >&"$__nsbox_channel"
while :; do
    IFS= read -r -d '' -u "$__nsbox_channel" __nsbox_line || {
        (($? > 128)) && continue
        exit 0
    }
    eval "__nsbox_words=($__nsbox_line)"
    __nsbox_saved=
    for __nsbox_word in "${__nsbox_words[@]:4}"; do
        __nsbox_name=${__nsbox_word%%=*}
        if [[ -v $__nsbox_name ]]; then
            __nsbox_saved+="$(declare -p "$__nsbox_name")"$'\n'
        else
            __nsbox_saved+="unset -v $__nsbox_name"$'\n'
        fi
        export "$__nsbox_word"
    done
    __nsbox_back=$PWD
    if [[ ! ${__nsbox_words[2]} ]] || cd -- "${__nsbox_words[2]}"; then
        __nsbox_running=yes
        source "${__nsbox_words[0]}" <"${__nsbox_words[1]}"
        __nsbox_status=$?
        if [[ $__nsbox_running == interrupted ]]; then
            trap - DEBUG
            shopt -u extdebug
            set +T
            __nsbox_status=130
        fi
        __nsbox_running=
    else
        __nsbox_status=1
    fi
    [[ ! ${__nsbox_words[2]} ]] || cd -- "$__nsbox_back"
    eval "$__nsbox_saved"
    trap __nsbox_interrupt INT
    printf -v __nsbox_word '\\x%02x' "$__nsbox_status"
    printf "${__nsbox_words[3]}$__nsbox_word" >&"$__nsbox_channel"
done
