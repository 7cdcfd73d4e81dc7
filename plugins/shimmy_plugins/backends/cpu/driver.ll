; Runs a call table on one of several threads, and keeps the threads together.
;
; A call is four words: kernel, argument block, 1 if all threads must meet after it, and a number
; for the kernel's threads to claim work by. Threads meet at a counter: the last one to arrive resets it and moves the generation on, which the others
; wait for. They spin, because a region is shorter than a system call; but only for a while, then
; they yield, because on a busy machine the missing thread may be waiting for this very core.
;
; PAUSE and SPINS are replaced before use.

%control = type {
  i64,        ; 0: threads that have arrived
  [7 x i64],  ; each counter has a cache line of its own
  i64,        ; 2: generation
  [7 x i64],
  ptr         ; 4: the system's function that yields the core
}

define void @run(ptr %calls, i64 %begin, i64 %end, i64 %thread, i64 %threads, ptr %control) nounwind {
entry:
  %alone = icmp eq i64 %threads, 1
  br label %test
test:
  %i = phi i64 [ %begin, %entry ], [ %next, %after ]
  %more = icmp ult i64 %i, %end
  br i1 %more, label %body, label %done
body:
  %kernel.at = getelementptr [4 x i64], ptr %calls, i64 %i, i64 0
  %fields.at = getelementptr [4 x i64], ptr %calls, i64 %i, i64 1
  %meet.at = getelementptr [4 x i64], ptr %calls, i64 %i, i64 2
  %claimed.at = getelementptr [4 x i64], ptr %calls, i64 %i, i64 3
  %kernel = load ptr, ptr %kernel.at
  %fields = load ptr, ptr %fields.at
  %meet.word = load i64, ptr %meet.at
  call void %kernel(ptr %fields, i64 %thread, i64 %threads, ptr %claimed.at)
  %apart = icmp eq i64 %meet.word, 0
  %skip = or i1 %apart, %alone
  br i1 %skip, label %after, label %meet
meet:
  call void @barrier(i64 %threads, ptr %control)
  br label %after
after:
  %next = add i64 %i, 1
  br label %test
done:
  ret void
}

define internal void @barrier(i64 %threads, ptr %control) nounwind {
entry:
  %arrived.at = getelementptr %control, ptr %control, i64 0, i32 0
  %generation.at = getelementptr %control, ptr %control, i64 0, i32 2
  %yield.at = getelementptr %control, ptr %control, i64 0, i32 4
  %generation = load atomic i64, ptr %generation.at acquire, align 8
  %before = atomicrmw add ptr %arrived.at, i64 1 acq_rel
  %arrived = add i64 %before, 1
  %last = icmp eq i64 %arrived, %threads
  br i1 %last, label %release, label %wait
release:
  store atomic i64 0, ptr %arrived.at monotonic, align 8
  %following = add i64 %generation, 1
  store atomic i64 %following, ptr %generation.at release, align 8
  ret void
wait:
  %spins = phi i64 [ 0, %entry ], [ %spins.next, %spin ], [ %spins, %yield ]
  %now = load atomic i64, ptr %generation.at acquire, align 8
  %waiting = icmp eq i64 %now, %generation
  br i1 %waiting, label %pause, label %met
pause:
  %patient = icmp ult i64 %spins, SPINS
  br i1 %patient, label %spin, label %yield
spin:
  PAUSE
  %spins.next = add i64 %spins, 1
  br label %wait
yield:
  %yield.function = load ptr, ptr %yield.at
  %ignored = call i32 %yield.function()
  br label %wait
met:
  ret void
}

declare void @llvm.x86.sse2.pause()
declare void @llvm.aarch64.hint(i32)
