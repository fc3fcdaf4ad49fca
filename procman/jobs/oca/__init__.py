"""The queue of an Odoo with OCA's module queue_job, in place of the runner that comes with that module.

Odoo enqueues, and Odoo's workers run the jobs; what is in between - which job starts when, and what becomes of the jobs
of workers that died - is done by procman's runner, with the module's own tables, notices and requests. All versions
from 14.0 to 19.0 are known; what they differ in is found in the database (`procman.jobs.oca.layout`).
"""
