// Where a request goes: read for each. New settings would need a reload, which closes the idle
// connections of clients, also in the moment that one of them sends its next request.
import fs from 'fs';

function upstream() {
    return fs.readFileSync('/data/proxy/upstream', 'utf8').split(' ')[0].trim();
}

export default { upstream };
