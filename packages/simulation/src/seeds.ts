/** Seeds that once found something; they run at every test, for ever. Each with what it found. */
export const FOUND_SEEDS: readonly { readonly seed: number; readonly found: string }[] = [
  {
    seed: 7,
    found: 'S6: a queue’s events saved by a batch whose lease ran out were told by nobody and held by nobody',
  },
  { seed: 11, found: 'L2: auth that expires was never usable for a worker whose clock ran an hour ahead' },
  { seed: 33, found: 'S6: a queue’s events on the chain of a lost attempt were dropped with it' },
  { seed: 49, found: 'S6: as 7, through a store that answered late' },
  { seed: 55, found: 'process: a read of states that failed in an aborted step ended the process' },
  { seed: 110, found: 'S6: with its list and its lease lost, a batch did not know whose saved events nobody had told' },
  { seed: 157, found: 'S6: a store that failed once kept a cancelled poll from holding what it had saved' },
  { seed: 182, found: 'S6: a cancelled poll stored a queue’s page after the batch was committed, and nobody held it' },
  { seed: 215, found: 'S6: a late extension of the poll hid that the batch was being committed' },
  { seed: 1063, found: 'S6: one lost answer of the store made a forced commit end its batch unread' },
  { seed: 20050, found: 'S10: pages of a chain were asked for 22 s after the trigger was fenced' },
];
