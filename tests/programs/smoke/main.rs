use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::process::{Command, Stdio};
use std::sync::{mpsc, Arc, Condvar, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

fn files() -> io::Result<()> {
    let directory = std::env::temp_dir().join("x");
    fs::create_dir_all(&directory)?;
    let name = directory.join("file");
    let mut file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&name)?;
    file.write_all(b"onetwo")?;
    file.seek(SeekFrom::Start(3))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    assert_eq!(text, "two");
    file.set_len(4)?;
    file.sync_all()?;
    fs::rename(&name, directory.join("new"))?;
    std::os::unix::fs::symlink("new", &name)?;
    fs::copy(&name, directory.join("copy"))?;
    assert_eq!(fs::metadata(&name)?.len(), 4);
    assert_eq!(fs::read_dir(&directory)?.count(), 3);
    fs::canonicalize(&name)?;
    fs::remove_dir_all(&directory)
}

fn main() {
    files().unwrap();
    assert_eq!(Command::new("sh").args(["-c", "exit 3"]).status().unwrap().code(), Some(3));
    let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(cat.wait_with_output().unwrap().stdout, b"through");
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::new((Mutex::new(0), Condvar::new(), RwLock::new(1)));
    let workers: Vec<_> = (0..4).map(|i| {
        let (sender, shared) = (sender.clone(), shared.clone());
        thread::spawn(move || {
            *shared.0.lock().unwrap() += i * *shared.2.read().unwrap();
            shared.1.notify_all();
            sender.send(i).unwrap();
        })
    }).collect();
    for worker in workers { worker.join().unwrap(); }
    drop(sender);
    assert_eq!(receiver.iter().sum::<i32>(), 6);
    let (guard, _) = shared.1.wait_timeout(shared.0.lock().unwrap(), Duration::from_millis(5)).unwrap();
    assert_eq!(*guard, 6);
    let started = Instant::now();
    thread::sleep(Duration::from_millis(5));
    assert!(started.elapsed().as_millis() >= 5 && SystemTime::now() > SystemTime::UNIX_EPOCH);
    let map: HashMap<_, _> = (0..100_000).map(|i| (i, i.to_string())).collect();
    assert_eq!(map[&7], "7");
    let mut big = vec![0u8; 64 << 20];
    big.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    drop(big);
    std::panic::set_hook(Box::new(|_| {}));
    assert!(std::panic::catch_unwind(|| panic!("caught")).is_err());
    assert!(thread::available_parallelism().is_ok());
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).unwrap();
    println!("{} {}", line.trim_end(), std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    eprintln!("bad");
    println!("done");
}
